#!/bin/sh
# modprobe for the kernel's FTP helper: kernels since 6.0 assign helpers by rules alone.
act=-A ports=21
for word; do
  case $word in
    -r) act=-D ;;
    ports=*) ports=${word#ports=} ;;
    nf_conntrack_ftp|loose=*) ;;
    *) echo "modprobe: FATAL: Module $word not found in directory /lib/modules/$(uname -r)" >&2; exit 1 ;;
  esac
done
[ $act = -D ] && ports=$(cat /run/lab/ftp-ports 2>/dev/null)
echo "$ports" >/run/lab/ftp-ports
for port in $(echo "$ports" | tr , ' '); do
  for family in iptables ip6tables; do
    for chain in PREROUTING OUTPUT; do
      $family -t raw $act $chain -p tcp --dport "$port" -j CT --helper ftp || exit 1
    done
  done
done
