package injecttoken

import (
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

const directiveForm = "write inject_token [MATCHER] NAME UPSTREAM…, such as inject_token crm https://api.example.org"

// parseInjectToken parses the directive, a shortcut that writes a
// reverse_proxy with the transport inject_token:
//
//	inject_token [<matcher>] <name> <upstreams...> {
//	    header      <field> [<format>]
//	    query       <param>
//	    wait        <duration>
//	    unavailable fail|pass
//	    existing    replace|keep
//	    allow_hosts <patterns...>
//	    # everything else is reverse_proxy's own
//	}
//
// It takes its own options out of the block and hands the rest to
// reverse_proxy's parser.
func parseInjectToken(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // consume directive name
	r := newOptionReader(h.Dispenser, "inject_token")
	if !h.NextArg() {
		return nil, h.Errf("the name of a token source is missing; %s", directiveForm)
	}
	t := &Transport{Source: h.Val()}
	if err := checkSourceOption(h, t.Source); err != nil {
		return nil, err
	}
	h.Delete()
	for _, upstream := range h.RemainingArgs() { // they are reverse_proxy's
		switch {
		case upstream == "", strings.HasSuffix(upstream, "://"): // which takes this machine for it
			return nil, h.Errf("an upstream has no host, as happens where an environment variable is not set; %s", directiveForm)
		case strings.ContainsAny(upstream[:1], "/@*"):
			return nil, h.Errf("%s is no upstream; a matcher stands in front of the name: %s", upstream, directiveForm)
		}
	}

	var own bool // whether the option that was read last is ours
	for h.NextBlock(0) {
		if own && h.Val() == "{" {
			return nil, r.unknown(nil)
		}
		if h.Nesting() != 1 {
			continue
		}
		var parse transportOption
		if parse, own = transportOptions[h.Val()]; !own {
			h.RemainingArgs() // they are no options, whatever they look like
			continue
		}
		args, err := r.option(parse.repeats)
		if err != nil {
			return nil, err
		}
		if err := parse.set(r, t, args); err != nil {
			return nil, err
		}
		if m := t.check(); m != nil {
			return nil, r.place.WrapErr(m)
		}
		h.DeleteN(len(args) + 1)
	}
	if m := t.check(); m != nil {
		return nil, r.locate(m)
	}
	handler, err := parseReverseProxy(h)
	if err != nil {
		return nil, err
	}
	if m := checkAllowHosts(handler, t.AllowHosts); m != nil {
		return nil, r.locate(m)
	}
	if err := t.wrap(handler); err != nil {
		return nil, r.start.Errf("%v", err)
	}
	return handler, nil
}

// checkSourceOption wants a source that the global options define; they are
// read before any site.
func checkSourceOption(h httpcaddyfile.Helper, name string) error {
	if strings.ContainsAny(name, ":/{") { // not shown: it may be a URL with a password
		return h.Errf("the name of a token source comes first, and this is none; %s", directiveForm)
	}
	var app App
	if option, ok := h.Option("token_sources").(httpcaddyfile.App); ok {
		if err := json.Unmarshal(option.Value, &app); err != nil {
			return h.WrapErr(err)
		}
	}
	if _, ok := app.Sources[name]; !ok {
		return h.WrapErr(unknownSource(name, app.Sources))
	}
	return nil
}

// parseReverseProxy hands what is left of the block to reverse_proxy.
func parseReverseProxy(h httpcaddyfile.Helper) (*reverseproxy.Handler, error) {
	h.Reset()
	handler := new(reverseproxy.Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		if best := nearest(h.Val(), transportOptionNames()); best != "" {
			return nil, &hinted{err, "did you mean " + best + "?"}
		}
		return nil, withoutAddress(err)
	}
	if err := handler.FinalizeUnmarshalCaddyfile(h); err != nil {
		return nil, err
	}
	if len(handler.Upstreams) == 0 && handler.DynamicUpstreamsRaw == nil {
		h.Reset()
		h.Next()
		return nil, h.Errf("an upstream is missing; %s", directiveForm)
	}
	return handler, nil
}

// withoutAddress takes addresses out of an error of another parser: one may hold
// the password of a proxy, or a key in its query.
func withoutAddress(err error) error {
	text := secretAddress.ReplaceAllString(err.Error(), "…")
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

var secretAddress = regexp.MustCompile(`[^\s']+://[^\s']*[@?][^\s',]*`)

// hinted is an error of another parser, with a hint of ours.
type hinted struct {
	error
	hint string
}

func (h *hinted) Error() string { return h.error.Error() + " (" + h.hint + ")" }
func (h *hinted) Unwrap() error { return h.error }

// wrap puts t around the HTTP transport of a reverse_proxy.
func (t *Transport) wrap(handler *reverseproxy.Handler) error {
	if handler.TransportRaw != nil {
		var inner struct {
			Protocol string `json:"protocol"`
		}
		if err := json.Unmarshal(handler.TransportRaw, &inner); err != nil {
			return err
		}
		if inner.Protocol != "http" {
			return wrong("transport", "inject_token goes over transport http alone, not over %s", inner.Protocol)
		}
		if err := json.Unmarshal(handler.TransportRaw, &t.HTTPTransport); err != nil {
			return err
		}
	}
	handler.TransportRaw = caddyconfig.JSONModuleObject(t, "protocol", "inject_token", nil)
	return nil
}

// UnmarshalCaddyfile parses the transport:
//
//	transport inject_token <name> {
//	    header      <field> [<format>]
//	    query       <param>
//	    wait        <duration>
//	    unavailable fail|pass
//	    existing    replace|keep
//	    allow_hosts <patterns...>
//	    http {
//	        # the options of transport http
//	    }
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume transport name
	r := newOptionReader(d, "transport inject_token")
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Errf("transport inject_token takes one argument, the name of a token source")
	}
	t.Source = args[0]
	for d.NextBlock(0) {
		if d.Val() == "http" {
			if err := r.begin(false); err != nil {
				return err
			}
			if err := t.HTTPTransport.UnmarshalCaddyfile(d.NewFromNextSegment()); err != nil {
				return withoutAddress(err)
			}
			continue
		}
		parse, ok := transportOptions[d.Val()]
		if !ok {
			return r.unknown(append(transportOptionNames(), "http"))
		}
		args, err := r.option(parse.repeats)
		if err != nil {
			return err
		}
		if err := parse.set(r, t, args); err != nil {
			return err
		}
		if m := t.check(); m != nil {
			return r.place.WrapErr(m)
		}
	}
	if m := t.check(); m != nil {
		return r.locate(m)
	}
	return nil
}

// transportOption reads one option of the directive and of the transport.
type transportOption struct {
	repeats bool
	set     func(r *optionReader, t *Transport, args []string) error
}

var transportOptions = map[string]transportOption{
	"header": {repeats: true, set: func(r *optionReader, t *Transport, args []string) error {
		if len(args) != 1 && len(args) != 2 {
			return r.errf("write header FIELD [FORMAT]")
		}
		h := HeaderInjection{Field: args[0]}
		if len(args) == 2 {
			if args[1] == "" {
				return r.errf("the format is empty; it must hold {token}")
			}
			h.Format = args[1]
		}
		t.Headers = append(t.Headers, h)
		return nil
	}},
	"query": {repeats: true, set: func(r *optionReader, t *Transport, args []string) error {
		if len(args) != 1 {
			return r.errf("write query PARAM")
		}
		t.Query = append(t.Query, args[0])
		return nil
	}},
	"wait": {set: func(r *optionReader, t *Transport, args []string) error {
		return r.duration(&t.Wait, args)
	}},
	"unavailable": {set: func(r *optionReader, t *Transport, args []string) error {
		return r.oneOf(&t.Unavailable, args, "fail", "pass")
	}},
	"existing": {set: func(r *optionReader, t *Transport, args []string) error {
		return r.oneOf(&t.Existing, args, "replace", "keep")
	}},
	"allow_hosts": {set: func(r *optionReader, t *Transport, args []string) error {
		if len(args) == 0 {
			return r.errf("write allow_hosts PATTERN…, such as allow_hosts *.example.org")
		}
		t.AllowHosts = args
		return nil
	}},
	"replay_on":     {set: noReplay},
	"replay_buffer": {set: noReplay},
}

func noReplay(r *optionReader, _ *Transport, _ []string) error {
	return r.errf("requests are not replayed in this version: a 401 goes to the caller, and the token is renewed for those that follow")
}

func transportOptionNames() []string {
	return slices.DeleteFunc(slices.Collect(maps.Keys(transportOptions)), func(name string) bool {
		return strings.HasPrefix(name, "replay_")
	})
}

// optionReader reads the options of one block, each once unless it repeats,
// and knows later where each of them stands.
type optionReader struct {
	*caddyfile.Dispenser
	start   *caddyfile.Dispenser // at the token in front of the block
	places  map[string]*caddyfile.Dispenser
	block   string               // what the block describes
	current string               // the option that is read
	place   *caddyfile.Dispenser // at that option
}

func newOptionReader(d *caddyfile.Dispenser, block string) *optionReader {
	return &optionReader{Dispenser: d, start: placeOf(d), places: map[string]*caddyfile.Dispenser{}, block: block}
}

// placeOf returns a dispenser whose errors name the line of d's current token.
func placeOf(d *caddyfile.Dispenser) *caddyfile.Dispenser {
	place := caddyfile.NewDispenser([]caddyfile.Token{d.Token()})
	place.Next()
	return place
}

// begin notes that the option at the current token is read.
func (r *optionReader) begin(repeats bool) error {
	r.current, r.place = r.Val(), placeOf(r.Dispenser)
	if first, again := r.places[r.current]; again {
		if !repeats {
			return r.Errf("%s: given already at %s:%d", r.current, first.File(), first.Line())
		}
		return nil
	}
	r.places[r.current] = r.place
	return nil
}

// named notes where the current option stands with this name, of those that
// stand several times with different ones.
func (r *optionReader) named(name string) {
	r.places[r.current+" "+name] = r.place
}

// option begins the option at the current token and returns its arguments.
func (r *optionReader) option(repeats bool) ([]string, error) {
	if err := r.begin(repeats); err != nil {
		return nil, err
	}
	return r.RemainingArgs(), nil
}

// errf returns an error about the current option. Its arguments are not shown
// by itself: any of them may be a secret.
func (r *optionReader) errf(format string, args ...any) error {
	return r.Errf(r.current+": "+format, args...)
}

// locate gives a mistake the line of its option, or else of what that is in.
func (r *optionReader) locate(m *mistake) error {
	for option := m.option; ; {
		if place, ok := r.places[option]; ok {
			return place.WrapErr(m)
		}
		end := strings.LastIndexByte(option, ' ')
		if end < 0 {
			return r.start.WrapErr(m)
		}
		option = option[:end]
	}
}

// unknown returns the error for an option that there is not. What was written
// is shown only if it is nearly an option: in a line that was broken in the
// wrong place it may be a secret.
func (r *optionReader) unknown(names []string) error {
	if r.Val() == "{" {
		return r.Errf("%s takes no block in braces", r.current)
	}
	if best := nearest(r.Val(), names); best != "" {
		return r.Errf("unknown option %s in %s; did you mean %s?", r.Val(), r.block, best)
	}
	if hint, known := elsewhere[r.Val()]; known && r.block == "source" {
		return r.Errf("unknown option %s in %s; write %s", r.Val(), r.block, hint)
	}
	return r.Errf("unknown option in %s; %s", r.block, didYouMean("", names))
}

// elsewhere is how options are called in OAuth, or in reverse_proxy.
var elsewhere = map[string]string{
	"url": "token_url", "token_endpoint": "token_url", "endpoint": "token_url",
	"grant_type": "grant", "token_endpoint_auth_method": "client_auth", "auth_method": "client_auth",
	"audience": "param audience VALUE", "resource": "param resource VALUE", "tenant": "param tenant VALUE",
	"header": "header in token_request { … }", "expires_in": "expires_in in token_response { … }",
	"tls_insecure_skip_verify": "this in transport http { … }", "tls_trust_pool": "this in transport http { … }",
	"tls_client_auth": "this in transport http { … }", "network_proxy": "this in transport http { … }",
}

func (r *optionReader) text(out *string, args []string) error {
	if len(args) == 0 {
		return r.errf("the argument is missing")
	}
	if len(args) > 1 && (args[0] == "{file" || args[0] == "{env") {
		return r.errf("a placeholder is written with a dot and no blank: %s.…}", args[0])
	}
	if len(args) > 1 {
		return r.errf("this takes one argument, but there are %d; put quotes around one with blanks", len(args))
	}
	if args[0] == "" {
		return r.errf("the argument is empty")
	}
	*out = args[0]
	return nil
}

func (r *optionReader) oneOf(out *string, args []string, words ...string) error {
	if len(args) != 1 || !slices.Contains(words, args[0]) {
		return r.errf("write one of: %s", strings.Join(words, ", "))
	}
	*out = args[0]
	return nil
}

func (r *optionReader) duration(out *caddy.Duration, args []string) error {
	if len(args) == 1 {
		if d, err := caddy.ParseDuration(args[0]); err == nil && d > 0 {
			*out = caddy.Duration(d)
			return nil
		}
	}
	return r.errf("write one duration of more than 0, such as 30s or 5m")
}
