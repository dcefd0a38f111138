// Package injecttoken is a Caddy module that obtains OAuth 2.0 tokens for
// third-party APIs, keeps them fresh, and puts them on the requests that Caddy
// proxies there, so that the callers never handle credentials.
//
// The app token_sources (app.go, source.go) holds what a user configures: one
// token source for each grant at a provider. Package tokensource obtains a
// token for it, package refresher keeps that token fresh, storage.go keeps it in
// Caddy's storage, for the next process and for other nodes, pool.go lets the
// refresher of an unchanged source live through a reload, and running.go knows the
// sources at work.
//
// Where a person must say yes first, authorize.go goes through that:
// authorization.go is one that was begun, callback.go the page token_callback on
// which the browser lands. Operators see and do what status.go and admin.go let
// them, over the admin API or by the commands of command.go; advice.go tells them
// what an error means.
//
// The transport http.reverse_proxy.transport.inject_token (transport.go) puts
// the token on a copy of the request that nothing but the upstream ever sees
// (attempt.go): selection.go says whose token, injection.go and query.go where
// it stands, upstreams.go and hosts.go where it may go, quiet.go how it is kept
// out of what comes back, replay.go what happens where the upstream refuses it,
// body.go how a body is sent twice, outcome.go what the log says of it all, and
// unavailable.go what callers get where there is no token. The directive
// inject_token is its shortcut (caddyfile.go); the global option token_sources
// is read in caddyfile_sources.go, both by the reader of caddyfile_reader.go.
package injecttoken

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(App{})
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(new(DynamicUpstream))
	caddy.RegisterModule(Callback{})
	caddy.RegisterModule(AdminAPI{})
	caddy.OnExit(awaitTokenRequests)
	httpcaddyfile.RegisterGlobalOption("token_sources", parseTokenSources)
	httpcaddyfile.RegisterHandlerDirective("inject_token", parseInjectToken)
	httpcaddyfile.RegisterDirectiveOrder("inject_token", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterHandlerDirective("token_callback", parseTokenCallback)
	httpcaddyfile.RegisterDirectiveOrder("token_callback", httpcaddyfile.Before, "respond")
}

// Interface guards. What the embedded HTTPTransport implements for
// reverse_proxy, Transport does as well.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)

	_ caddy.AdminRouter = (*AdminAPI)(nil)

	_ caddy.Provisioner           = (*Callback)(nil)
	_ caddyfile.Unmarshaler       = (*Callback)(nil)
	_ caddyhttp.MiddlewareHandler = (*Callback)(nil)

	_ caddy.Provisioner     = (*Transport)(nil)
	_ caddy.CleanerUpper    = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ http.RoundTripper     = (*Transport)(nil)

	_ caddy.Provisioner           = (*DynamicUpstream)(nil)
	_ caddyfile.Unmarshaler       = (*DynamicUpstream)(nil)
	_ reverseproxy.UpstreamSource = (*DynamicUpstream)(nil)

	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
)
