# Files by DCC from one real client to another, who meet at a real server: the receiver comes to an address that the
# offer, translated, names.
begin irc
# chats NAME NAMESPACE COMMAND...: weechat, which does the commands and waits.
chats() {
  who=$1 in=$2
  shift 2
  serves "$who" "$in" weechat-headless --stdout -d "$dir/irc/$who" -r "/set irc.server_default.ssl off" \
    -r "/server add here $server/6667 -nicks=$who" "$@" -r "/connect here"
}
if has ngircd weechat-headless; then
  cat >"$dir/irc/ngircd.conf" <<CONF
[Global]
Name = irc.example.org
Info = test
Listen = $server
[Options]
DNS = no
Ident = no
PAM = no
CONF
  serves ngircd "$outside" ngircd --nodaemon --config "$dir/irc/ngircd.conf"
  listens "$outside" t 6667
  mkdir -p "$dir/irc/got"
  seq 5000 >"$dir/irc/file"
  chats bob "$outside" -r "/set xfer.file.auto_accept_files on" -r "/set xfer.file.download_path $dir/irc/got" \
    -r "/set xfer.file.auto_rename on"
  awaits grep -q 'bob' "$dir/irc/ngircd.log"
  chats alice "$inside" -r "/set irc.server.here.command \"/dcc send bob $dir/irc/file\""
  awaits sh -c "cmp -s $dir/irc/file $dir/irc/got/*file"
  verdict $?
fi
