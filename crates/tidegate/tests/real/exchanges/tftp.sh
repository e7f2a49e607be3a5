# A file, which comes from another port than was asked.
begin tftp
if has in.tftpd tftp; then
  mkdir -p "$dir/tftp/files"
  seq 2000 >"$dir/tftp/files/file"
  chmod -R a+rX "$dir/tftp"
  serves tftpd "$outside" in.tftpd --foreground --listen --address $server:69 --secure "$dir/tftp/files"
  listens "$outside" u 69
  (cd "$dir/tftp" && timeout 20 ip netns exec "$inside" tftp $server -c get file >tftp.log 2>&1)
  cmp -s "$dir/tftp/files/file" "$dir/tftp/file"
  verdict $?
fi
