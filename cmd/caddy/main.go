// Command caddy is Caddy with its standard modules and the module of this
// repository. It is what
//
//	xcaddy build --with github.com/caddytoken/inject-token
//
// makes, for those who have Go and no xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/caddytoken/inject-token"
)

func main() {
	caddycmd.Main()
}
