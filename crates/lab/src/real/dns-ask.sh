#!/bin/sh
# dns-ask SERVER NAME [--sport PORT]
server=$1 name=$2
[ "$3" = --sport ] && set -- -b "0.0.0.0#$4" || set --
exec dig +tries=1 +time=2 "$@" @"$server" "$name" A
