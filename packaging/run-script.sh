#!/bin/sh
# Runs the Python script that this was called as: mtp-prepare-data is share/mtp/scripts/prepare_data.py. MTP_PYTHON names
# the Python that has the packages of share/mtp/scripts/requirements.txt.
share=$(dirname "$(dirname "$(readlink -f "$0")")")/share/mtp
script=$(basename "$0" | sed 's/^mtp-//; s/-/_/g')
[ -e "$share/scripts/$script.py" ] || script=mtp_$script
exec "${MTP_PYTHON:-python3}" "$share/scripts/$script.py" "$@"
