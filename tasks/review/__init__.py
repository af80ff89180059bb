"""What a reviewer is shown: volumes, their place in the patient, pictures of them, and the manifest that lists them."""
