#!/bin/sh
# service iptables save|start|stop|restart
start() {
  setsid tidegate up --config /run/lab/tidegate.toml >>/run/lab/tidegate.log 2>&1 </dev/null &
  pid=$!
  echo $pid >/run/lab/tidegate.pid
  while ! tidegate status >/dev/null 2>&1; do
    kill -0 $pid 2>/dev/null || { cat /run/lab/tidegate.log >&2; exit 1; }
    sleep 0.05
  done
}
stop() {
  tidegate down || exit 1
  pid=$(cat /run/lab/tidegate.pid)
  while [ -d "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.05; done
}
case "$1 $2" in
  "iptables save") tidegate save ;;
  "iptables start") start ;;
  "iptables stop") stop ;;
  "iptables restart") stop && start ;;
  *) echo "service: $* is not known in this lab" >&2; exit 1 ;;
esac
