#!/bin/sh
# lftp: ftp-client HOST [--active] [--extended] [--port PORT] [--only login|announce|list|get|put] [--slow SECONDS]
passive=on epsv=no port=21 only=all
while [ $# -gt 0 ]; do
  case $1 in
    --active) passive=off ;;
    --extended) epsv=yes ;;
    --port) port=$2; shift ;;
    --only) only=$2; shift ;;
    --slow) slow=$2; shift ;;
    *) host=$1 ;;
  esac
  shift
done
dir=$(mktemp -d /run/lab/client-XXXXXX)
cd "$dir" || exit 1
yes 0123456789abcde | head -n 400 >file
if [ -n "$slow" ]; then
  # 64,000 bytes a second
  yes 0123456789abcde | head -c $((slow * 64000)) >slow
  only=slow
fi
list="cls" get="get file -o got" put="put -O pub file"
case $only in
  all) do="$list; $get; $put" ;;
  list) do=$list ;;
  get) do=$get ;;
  put) do=$put ;;
  slow) do="set net:limit-rate 0:64000; set net:timeout 15; put -O pub slow; cls -s --block-size=1 pub/slow" ;;
  login) do="quote NOOP" ;;
  announce) [ $passive = on ] && do="quote PASV" || do="quote PORT 192,168,114,101,200,200" ;;
esac
case $host in *:*) host="[$host]" ;; esac
# It tries again and again, whatever it is told.
[ $only = slow ] || limit="timeout 8"
$limit lftp --norc -c "set net:max-retries 1; set net:timeout 3; set net:persist-retries 0; set ftp:use-feat no;
  set ftp:sync-mode yes; set ftp:passive-mode $passive; set ftp:prefer-epsv $epsv; set ftp:fix-pasv-address no;
  set cmd:fail-exit yes; set xfer:clobber yes;
  open -p $port -u anonymous,x $host; $do; quote NOOP; bye" || exit 1
if [ $only = slow ]; then
  # vsftpd's directory; the built-in server has none.
  [ ! -d /run/lab/ftp ] || cmp slow /run/lab/ftp/pub/slow
  exit
fi
[ $only = all ] || [ $only = get ] || exit 0
cmp file got
