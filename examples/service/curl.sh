#!/bin/sh
# The service from a shell: an identity, a swapped photo, a swapped clip.
#
#   mien serve                       # prints a key
#   MIEN_KEY=mien_… sh examples/service/curl.sh
set -eu
url=${MIEN_URL:-http://127.0.0.1:8000}/v1
media=$(dirname "$0")/../media
portrait=${1:-$media/portrait-1.jpg} photo=${2:-$media/photo.jpg} clip=${3:-$media/clip.mp4}

# The key goes in by standard input, so that the list of processes does not show it.
ask() { printf 'header = "Authorization: Bearer %s"\n' "$MIEN_KEY" | curl -sS --fail-with-body -K - "$@"; }
id_of() { sed 's/^{"id":"\([0-9a-f]*\)".*/\1/'; }

# Nobody in the example pictures exists; of somebody who does, say "self" or "written".
identity=$(ask "$url/identities" -F "photos=@$portrait" -F consent=synthetic -F name=me | id_of)
echo "identity $identity"

ask "$url/swaps" -F "identity=$identity" -F "target=@$photo" -o swapped.jpg
echo "wrote swapped.jpg"

job=$(ask "$url/jobs" -F "identity=$identity" -F "target=@$clip" | id_of)
ask -N "$url/jobs/$job/events" # until it ends
ask "$url/jobs/$job/result" -o swapped.mp4
echo "wrote swapped.mp4"
