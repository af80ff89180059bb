#!/bin/sh
# On a machine named in monitor.heartbeat_machines: mails if the watch has left no heartbeat for 26 hours.
# In the crontab of the account that the watch logs in with:  0 9 * * * sh heartbeat.sh somebody@lab.example
set -eu
to=${1:?give an address}
file=${2:-$HOME/.scanward/heartbeat}
last=$(cat "$file" 2>/dev/null || echo 0)
case $last in *[!0-9]* | "") last=0 ;; esac
hours=$(( ($(date +%s) - last) / 3600 ))
if [ "$hours" -ge 26 ]; then
  echo "The night watch has left no heartbeat on $(hostname) for $hours hours: it does not run, or cannot get here." |
    ${MAILER:-mail} -s "scanward: the night watch is silent" "$to"
fi
