#!/bin/sh
# lftp: ftp-client HOST [--active] [--extended] [--port PORT]
passive=on epsv=no port=21
while [ $# -gt 0 ]; do
  case $1 in
    --active) passive=off ;;
    --extended) epsv=yes ;;
    --port) port=$2; shift ;;
    *) host=$1 ;;
  esac
  shift
done
dir=$(mktemp -d /run/lab/client-XXXXXX)
cd "$dir" || exit 1
lftp --norc -c "set net:max-retries 1; set net:timeout 3; set net:persist-retries 0; set ftp:use-feat no;
  set ftp:sync-mode yes; set ftp:passive-mode $passive; set ftp:prefer-epsv $epsv; set ftp:fix-pasv-address no;
  set cmd:fail-exit yes;
  open -p $port -u anonymous,x $host; cls; get file -o got; put got -o pub/up; cls pub/up; rm pub/up; bye" || exit 1
yes 0123456789abcde | head -n 400 | cmp - got
