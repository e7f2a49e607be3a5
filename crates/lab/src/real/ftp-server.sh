#!/bin/sh
# vsftpd: ftp-server [--port PORT] [--ports FIRST:LAST]
# Passive ports as the kernel would draw them, so that runs can be compared.
port=21 first=32768 last=60999
while [ $# -gt 0 ]; do
  case $1 in
    --port) port=$2 ;;
    --ports) first=${2%:*} last=${2#*:} ;;
  esac
  shift 2
done
dir=/run/lab/ftp
mkdir -p $dir/pub /run/vsftpd/empty
chmod 755 /run/lab $dir
chmod 777 $dir/pub
yes 0123456789abcde | head -n 400 >$dir/file
cat >/run/lab/vsftpd-"$port".conf <<EOF
listen=NO
listen_ipv6=YES
listen_port=$port
ftp_data_port=$((port - 1))
background=NO
anonymous_enable=YES
write_enable=YES
anon_upload_enable=YES
anon_other_write_enable=YES
anon_root=$dir
no_anon_password=YES
connect_from_port_20=YES
seccomp_sandbox=NO
xferlog_enable=NO
pasv_min_port=$first
pasv_max_port=$last
EOF
exec vsftpd /run/lab/vsftpd-"$port".conf
