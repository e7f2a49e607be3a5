#!/bin/sh
# rsyslog that files what the firewall logs by facility and level
cat >/run/lab/rsyslog.conf <<'EOF'
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="/run/lab/syslog" UseSysTimeStamp="off")
template(name="plain" type="string" string="%timereported% %hostname% %syslogtag%%msg%\n")
kern.=warning action(type="omfile" file="/run/lab/kern.warning.log" template="plain")
kern.=info action(type="omfile" file="/run/lab/kern.info.log" template="plain")
:msg, contains, "want-in-from-port-22" action(type="omfile" file="/run/lab/want-in.log" template="plain")
EOF
exec rsyslogd -n -f /run/lab/rsyslog.conf -i /run/lab/rsyslog.pid
