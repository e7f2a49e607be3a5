#!/bin/sh
if [ "$1" = --socket ]; then
  set -- --socket=/run/lab/db.sock
else
  set -- --protocol=tcp --host="$1" --connect-timeout=2
fi
exec mariadb --no-defaults --skip-ssl --user=root --batch "$@" --execute='select 1'
