package injecttoken

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"
)

const directiveForm = "write inject_token [MATCHER] NAME UPSTREAM…, such as inject_token crm https://api.example.org"

// parseInjectToken parses the directive, a shortcut that writes a
// reverse_proxy with the transport inject_token:
//
//	inject_token [<matcher>] <name> <upstreams...> {
//	    header          <field> [<format>]
//	    query           <param>
//	    basic           <user> <password>
//	    replay_on       <statuses...>|off
//	    replay_buffer   <size>
//	    wait            <duration>
//	    unavailable     fail|pass
//	    existing        replace|keep
//	    sources         <patterns...>
//	    upstream_source <host:port> <name>
//	    allow_hosts     <patterns...>
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
		if h.Val() == "dynamic" {
			r.places["dynamic"] = placeOf(h.Dispenser)
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
		if m := t.checkOptions(); m != nil {
			return nil, r.place.WrapErr(m)
		}
		h.DeleteN(len(args) + 1)
	}
	for _, check := range []func() *mistake{t.check, func() *mistake { return t.checkNamedSources(h) }} {
		if m := check(); m != nil {
			return nil, r.locate(m)
		}
	}
	handler, err := parseReverseProxy(h)
	if err != nil {
		return nil, err
	}
	for _, m := range []*mistake{checkAllowHosts(handler, t.AllowHosts), t.checkUpstreamSources(handler), checkDynamic(h, handler)} {
		if m != nil {
			return nil, r.locate(m)
		}
	}
	if err := t.wrap(handler); err != nil {
		return nil, r.start.Errf("%v", err)
	}
	return handler, nil
}

// checkSourceOption wants a source that the global options define; they are
// read before any site.
func checkSourceOption(h httpcaddyfile.Helper, name string) error {
	if strings.ContainsAny(name, ":/") { // not shown: it may be a URL with a password
		return h.Errf("the name of a token source comes first, and this is none; %s", directiveForm)
	}
	if isTemplate(name) {
		return nil
	}
	sources, err := sourcesOf(h)
	if err != nil {
		return err
	}
	if _, ok := sources[name]; !ok {
		return h.WrapErr(unknownSource(name, sources))
	}
	return nil
}

// sourcesOf returns the sources that the global options define. They are decoded
// once for all directives.
func sourcesOf(h httpcaddyfile.Helper) (map[string]*Source, error) {
	const key = "token_sources"
	if known, ok := h.State[key].(map[string]*Source); ok {
		return known, nil
	}
	var app App
	if option, ok := h.Option("token_sources").(httpcaddyfile.App); ok {
		if err := json.Unmarshal(option.Value, &app); err != nil {
			return nil, h.WrapErr(err)
		}
	}
	filled := filledSources(app.Sources)
	if h.State != nil {
		h.State[key] = filled
	}
	return filled, nil
}

// checkNamedSources wants the other sources that are named to exist as well.
func (t *Transport) checkNamedSources(h httpcaddyfile.Helper) *mistake {
	sources, err := sourcesOf(h)
	if err != nil {
		return nil // seen before
	}
	for _, name := range slices.Sorted(maps.Values(t.UpstreamSources)) {
		if _, ok := sources[name]; !ok {
			return wrong("upstream_source", "%v", unknownSource(name, sources))
		}
	}
	if m := checkPatterns(t.SourcePatterns, sources); m != nil {
		return m
	}
	in, m := t.newInjection(sources)
	if m != nil {
		return m
	}
	return in.checkFormats(t.namedSources(sources), sources)
}

// checkDynamic wants what dynamic token_source names to exist.
func checkDynamic(h httpcaddyfile.Helper, handler *reverseproxy.Handler) *mistake {
	sources, err := sourcesOf(h)
	if err != nil {
		return nil // seen before
	}
	for _, u := range dynamicUpstreams(handler.DynamicUpstreamsRaw) {
		if m := u.check(sources); m != nil {
			return m
		}
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
//	    header          <field> [<format>]
//	    query           <param>
//	    basic           <user> <password>
//	    replay_on       <statuses...>|off
//	    replay_buffer   <size>
//	    wait            <duration>
//	    unavailable     fail|pass
//	    existing        replace|keep
//	    sources         <patterns...>
//	    upstream_source <host:port> <name>
//	    allow_hosts     <patterns...>
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
		if m := t.checkOptions(); m != nil {
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
			return r.errf("write header FIELD [FORMAT], a format with blanks in quotes")
		}
		h := HeaderInjection{Field: args[0]}
		if len(args) == 2 {
			if args[1] == "" {
				return r.errf("the format is empty; without it %s holds the token", args[0])
			}
			h.Format = args[1]
		}
		r.named(textproto.CanonicalMIMEHeaderKey(args[0]))
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
	"basic": {set: func(r *optionReader, t *Transport, args []string) error {
		if len(args) != 2 {
			return r.errf("write basic USER PASSWORD, of which one is or holds {token}")
		}
		t.Basic = &BasicInjection{Username: args[0], Password: args[1]}
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
	"sources": {set: func(r *optionReader, t *Transport, args []string) error {
		if len(args) == 0 {
			return r.errf("write sources PATTERN…, such as sources tenant-*")
		}
		t.SourcePatterns = args
		return nil
	}},
	"upstream_source": {repeats: true, set: func(r *optionReader, t *Transport, args []string) error {
		if len(args) != 2 {
			return r.errf("write upstream_source HOST:PORT NAME")
		}
		if _, twice := t.UpstreamSources[args[0]]; twice {
			return r.errf("%s has a source already", args[0])
		}
		if t.UpstreamSources == nil {
			t.UpstreamSources = make(map[string]string)
		}
		t.UpstreamSources[args[0]] = args[1]
		return nil
	}},
	"replay_on": {set: parseReplayOn},
	"replay_buffer": {set: func(r *optionReader, t *Transport, args []string) error {
		if len(args) != 1 {
			return r.errf("write replay_buffer SIZE, such as replay_buffer 64KiB")
		}
		size, err := humanize.ParseBytes(args[0])
		if err != nil || size > math.MaxInt64 {
			return r.errf("%q is not a size such as 64KiB", args[0])
		}
		bytes := int64(size)
		t.ReplayBuffer = &bytes
		return nil
	}},
}

func parseReplayOn(r *optionReader, t *Transport, args []string) error {
	t.ReplayOn = []int{}
	if len(args) == 1 && args[0] == "off" {
		return nil
	}
	for _, arg := range args {
		status, err := strconv.Atoi(arg)
		if err != nil {
			return r.errf("%q is not a status; write replay_on STATUS…, such as replay_on 401 403, or replay_on off", arg)
		}
		if slices.Contains(t.ReplayOn, status) {
			return r.errf("%d is set twice", status)
		}
		t.ReplayOn = append(t.ReplayOn, status)
	}
	if len(args) == 0 {
		return r.errf("write replay_on STATUS…, such as replay_on 401 403, or replay_on off")
	}
	return nil
}

func transportOptionNames() []string { return slices.Collect(maps.Keys(transportOptions)) }
