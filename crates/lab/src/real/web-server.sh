#!/bin/sh
# nginx with one page
dir=/run/lab/web-$1
mkdir -p "$dir/html" "$dir/tmp"
yes hello | head -n 600 >"$dir/html/index.html"
cat >"$dir/nginx.conf" <<EOF
daemon off; master_process off; user root; pid $dir/pid; error_log stderr;
events {}
http {
  access_log off; root $dir/html;
  client_body_temp_path $dir/tmp; proxy_temp_path $dir/tmp; fastcgi_temp_path $dir/tmp;
  uwsgi_temp_path $dir/tmp; scgi_temp_path $dir/tmp;
  server { listen $1; listen [::]:$1; }
}
EOF
exec nginx -c "$dir/nginx.conf"
