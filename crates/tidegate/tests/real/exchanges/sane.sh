# An image of the scanner that is there to test with: it comes by a connection of its own.
begin sane
if has saned scanimage; then
  mkdir -p "$dir/sane/server" "$dir/sane/client"
  echo test >"$dir/sane/server/dll.conf"
  echo "$gateway" >"$dir/sane/server/saned.conf"
  echo net >"$dir/sane/client/dll.conf"
  serves saned "$outside" env SANE_CONFIG_DIR="$dir/sane/server" saned -l -e -b $server -d 5
  listens "$outside" t 6566
  within "$inside" env SANE_CONFIG_DIR="$dir/sane/client" timeout -k 1 10 scanimage -d net:$server:test:0 --mode Gray \
    --test-picture "Color pattern" >"$dir/sane/image" 2>"$dir/sane/scanimage.log"
  scanned=$?
  # The picture is 80 by 100 mm at 50 dots an inch.
  head -c 2 "$dir/sane/image" | grep -q P5
  image=$?
  verdict $((scanned + image))
fi
