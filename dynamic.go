package injecttoken

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// DynamicUpstream takes the upstream from what a provider's answer says beside the
// token, such as the host of a tenant's own API. It goes with the transport
// inject_token, whose allow_hosts says which hosts may be meant: a provider's answer
// must not lead a token elsewhere.
type DynamicUpstream struct {
	// The name of the token source. Required.
	TokenSource string `json:"token_source,omitempty"`

	// What the source exposes of the answer: a URL, or a host with its port or
	// without. A scheme must be that of the transport, and sets the port; a path is
	// not used. Required.
	Field string `json:"field,omitempty"`

	transport *Transport
	use       *use
	log       *zap.Logger
	newest    atomic.Pointer[exposedUpstream]
}

// exposedUpstream is the upstream of one token.
type exposedUpstream struct {
	token *tokensource.Token
	dial  string
	err   error
}

const dynamicModule = "token_source"

const dynamicForm = "write dynamic token_source SOURCE FIELD, such as dynamic token_source crm instance_url"

// CaddyModule returns the Caddy module information.
func (*DynamicUpstream) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams." + dynamicModule,
		New: func() caddy.Module { return new(DynamicUpstream) },
	}
}

// UnmarshalCaddyfile parses the dynamic upstream:
//
//	dynamic token_source <source> <field>
func (u *DynamicUpstream) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the name of the module
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Errf("%s", dynamicForm)
	}
	u.TokenSource, u.Field = args[0], args[1]
	if d.NextBlock(0) {
		return d.Errf("this takes no block; %s", dynamicForm)
	}
	return nil
}

// Provision finds the source and the transport.
func (u *DynamicUpstream) Provision(ctx caddy.Context) error {
	u.log = ctx.Logger()
	var handler *reverseproxy.Handler
	for _, module := range ctx.Modules() {
		if h, ok := module.(*reverseproxy.Handler); ok {
			handler = h
		}
	}
	var ours bool
	if handler != nil {
		u.transport, ours = handler.Transport.(*Transport)
	}
	if !ours {
		return errors.New("dynamic token_source goes with the transport inject_token alone, whose allow_hosts says where requests may go")
	}
	if len(u.transport.AllowHosts) == 0 { // inside of others, such as multi
		return missingAllowHosts()
	}
	app, err := ctx.AppIfConfigured("token_sources")
	if err != nil {
		return unknownSource(u.TokenSource, nil)
	}
	if m := u.check(app.(*App).filled); m != nil {
		return m
	}
	r, err := app.(*App).refresher(u.TokenSource)
	if err != nil {
		return err
	}
	u.use = newUse(u.TokenSource, r)
	u.use.identity = identityOf(u.TokenSource, app.(*App).filled[u.TokenSource])
	return nil
}

// check wants the source to expose the field.
func (u *DynamicUpstream) check(sources map[string]*Source) *mistake {
	s := sources[u.TokenSource]
	switch {
	case s == nil:
		return wrong("dynamic", "%v", unknownSource(u.TokenSource, sources))
	case s.takesCallers():
		return wrong("dynamic", "the source %s has a token for each caller, and none of its own", u.TokenSource)
	case !exposedName.MatchString(u.Field):
		return wrong("dynamic", "the field has other signs than lower-case letters, digits and _; %s", dynamicForm)
	case !s.exposes(u.Field):
		return wrong("dynamic", "the source %s does not expose %s; write token_response { expose %[2]s PATH } there", u.TokenSource, u.Field)
	}
	return nil
}

// GetUpstreams returns the upstream of the current token, or none. An error would
// have reverse_proxy go elsewhere.
func (u *DynamicUpstream) GetUpstreams(req *http.Request) ([]*reverseproxy.Upstream, error) {
	ctx, cancel := u.transport.patience(req.Context(), time.Now())
	defer cancel()
	token, err := u.use.refresher.Token(ctx)
	if next := u.use.successor(); err != nil && next != nil {
		token, err = next.refresher.Token(ctx)
	}
	if err != nil {
		if req.Context().Err() == nil {
			u.log.Debug("there is no upstream, for there is no token", zap.String("source", u.TokenSource), zap.Error(err))
		}
		return nil, nil
	}
	upstream := u.of(token)
	if upstream.err != nil {
		return nil, nil
	}
	return []*reverseproxy.Upstream{{Dial: upstream.dial}}, nil
}

// of returns the upstream of a token, and logs once what is wrong with it. What the
// provider has said is not shown.
func (u *DynamicUpstream) of(token *tokensource.Token) *exposedUpstream {
	if known := u.newest.Load(); known != nil && known.token == token {
		return known
	}
	next := &exposedUpstream{token: token}
	var pathless bool
	value, there := token.Exposed[u.Field]
	if next.dial, pathless, next.err = u.transport.dialOf(value); !there {
		next.err = errors.New("the provider's answer has no such field")
	}
	fields := []zap.Field{zap.String("source", u.TokenSource), zap.String("field", u.Field)}
	switch {
	case next.err != nil:
		u.log.Error("there is no upstream", append(fields, zap.Error(next.err))...)
	case !pathless:
		u.log.Warn("the upstream of the provider's answer has a path or a query, which is not used; rewrite adds one", fields...)
	}
	u.newest.Store(next)
	return next
}

// dialOf returns where a URL, or a host with or without its port, is dialed. Its host
// can be no placeholder: reverse_proxy would replace it.
func (t *Transport) dialOf(value string) (dial string, pathless bool, err error) {
	scheme, rest, isURL := strings.Cut(value, "://")
	if !isURL {
		scheme, rest = "", value
	}
	if isURL {
		if parsed, err := url.Parse(value); err != nil || parsed.User != nil || parsed.Opaque != "" {
			return "", false, errors.New("this is not a URL of a scheme, a host and a port")
		}
	}
	end := strings.IndexAny(rest, "/?#")
	pathless = end < 0 || rest[end:] == "/"
	if end >= 0 {
		rest = rest[:end]
	}
	host, port := splitHostPort(rest)
	if host = normalHost(host); !isHost(host) {
		return "", false, errors.New("this is not the name or the address of a host")
	}
	if port == "" {
		port = map[string]string{"https": "443", "http": "80", "": "80"}[strings.ToLower(scheme)]
		if scheme == "" && t.TLSEnabled() {
			port = "443"
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strings.HasSuffix(rest, ":") {
		return "", false, errors.New("the port is not a number, or the scheme neither https nor http")
	}
	usesTLS := t.TLSEnabled() && !slices.Contains(t.TLS.ExceptPorts, port)
	switch scheme = strings.ToLower(scheme); {
	case scheme != "" && scheme != "https" && scheme != "http":
		return "", false, errors.New("the scheme is neither https nor http")
	case scheme == "https" && !usesTLS:
		return "", false, errors.New("it is reached by https, and the transport has no TLS; write transport http { tls }")
	case scheme == "http" && usesTLS:
		return "", false, errors.New("it is reached by http, and the transport has TLS")
	}
	return net.JoinHostPort(host, port), pathless, nil
}

// isHost says whether a text is an address, or a name of which nobody has another
// idea.
func isHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Zone() == ""
	}
	return !slices.ContainsFunc(strings.Split(host, "."), func(label string) bool { return !isLabel(label) })
}

// dynamicUpstreams returns those of this module in the dynamic upstreams of a
// reverse_proxy, also inside of others.
func dynamicUpstreams(raw json.RawMessage) (all []*DynamicUpstream) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		for _, inner := range list {
			all = append(all, dynamicUpstreams(inner)...)
		}
		return all
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return nil
	}
	var module string
	if json.Unmarshal(object["source"], &module) == nil && module == dynamicModule {
		u := new(DynamicUpstream)
		_ = json.Unmarshal(raw, u) // it is decoded again, strictly
		return append(all, u)
	}
	for _, inner := range object {
		all = append(all, dynamicUpstreams(inner)...)
	}
	return all
}

func missingAllowHosts() *mistake {
	return wrong("allow_hosts", "missing; the provider's answer says where requests go, so say which hosts may get the token, such as allow_hosts *.example.org")
}
