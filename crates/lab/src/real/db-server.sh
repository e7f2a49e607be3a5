#!/bin/sh
# MariaDB on every address and on a unix socket
dir=/run/lab/db
mkdir -p "$dir"
mariadb-install-db --no-defaults --user=root --datadir="$dir" --auth-root-authentication-method=normal \
  --skip-test-db >/dev/null || exit 1
exec mariadbd --no-defaults --user=root --datadir="$dir" --socket=/run/lab/db.sock --pid-file="$dir/pid" \
  --bind-address='*' --skip-name-resolve --skip-grant-tables --innodb-buffer-pool-size=8M --innodb-log-file-size=8M
