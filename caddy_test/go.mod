module github.com/caddytoken/inject-token/caddy_test

go 1.26.0
