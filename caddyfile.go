package injecttoken

import (
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

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
