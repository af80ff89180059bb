"""What a reviewer is shown: volumes, where they lie in the patient, pictures of them, and the manifest that lists it all."""
