package injecttoken

import (
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/net/idna"

	"github.com/caddytoken/inject-token/refresher"
)

// use is a token source as one transport uses it.
type use struct {
	name      string
	identity  identity
	refresher *refresher.Refresher // nil: none
	caller    string               // of whom it is, where it is one of them
	others    []*use               // whose tokens stand beside its own
	formed    formedCache
	outcomes
}

func newUse(name string, r *refresher.Refresher) *use {
	return &use{name: name, refresher: r, outcomes: newOutcomes(name)}
}

// successor returns the same source in the configuration that has taken the place
// of this one, for a request that is being drained; nil where this one is still at
// work, or where the source was removed or belongs to another client now.
func (u *use) successor() *use {
	if !u.refresher.Ended() {
		return nil
	}
	next := runningSources.byName(u.name)
	if next == nil || next.identity() != u.identity || next.refresher == u.refresher {
		return nil
	}
	heir := &use{name: u.name, identity: u.identity, refresher: next.refresher, others: u.others, outcomes: u.outcomes}
	if u.caller != "" {
		return heir.ofCaller(u.caller)
	}
	return heir
}

// selection is which source's token a request gets: that of its upstream, else
// the one that is named. A name that holds placeholders is resolved for each
// request, and looked up among the sources that it may name.
type selection struct {
	byUpstream map[string]*use // by host:port

	// byHealthPort are the sources of a host whose health is asked for at another
	// port than the upstreams'.
	byHealthPort map[string][]*use

	always *use // nil where the name holds placeholders
	byName map[string]*use
	none   *use // of what gets no token
}

// isTemplate says whether the name of a source is one for each request.
func isTemplate(name string) bool { return strings.Contains(name, "{") }

// newSelection finds the sources that a transport may use.
func newSelection(t *Transport, app *App) (*selection, error) {
	s := &selection{byUpstream: make(map[string]*use), byHealthPort: make(map[string][]*use), byName: make(map[string]*use), none: newUse(t.Source, nil)}
	uses := make(map[string]*use)
	sources := app.filled
	find := func(name string) (*use, error) {
		if u := uses[name]; u != nil {
			return u, nil
		}
		r, err := app.refresher(name)
		if err != nil {
			return nil, err
		}
		uses[name] = newUse(name, r)
		uses[name].identity = identityOf(name, sources[name])
		if uses[name].identity.perCaller && t.Existing == "keep" {
			return nil, wrong("existing", "with keep a caller's own token would go to the API; the source %s exchanges it (subject_token caller)", name)
		}
		return uses[name], nil
	}
	if m := t.injection.checkFormats(t.namedSources(sources), sources); m != nil {
		return nil, m
	}
	var err error
	for upstream, name := range t.UpstreamSources {
		u, err := find(name)
		if err != nil {
			return nil, wrong("upstream_source", "%v", err)
		}
		s.byUpstream[addressOf(upstream)] = u
		if t.healthPort != "" {
			host, _, _ := net.SplitHostPort(upstream)
			s.byHealthPort[normalHost(host)] = append(s.byHealthPort[normalHost(host)], u)
		}
	}
	if !isTemplate(t.Source) {
		if s.always, err = find(t.Source); err != nil {
			return nil, err
		}
		return s, s.addOthers(t.injection.sources, uses, find)
	}
	if m := checkPatterns(t.SourcePatterns, sources); m != nil {
		return nil, m
	}
	for name := range sources {
		if !matchesAny(name, t.SourcePatterns) {
			continue
		}
		if s.byName[name], err = find(name); err != nil {
			return nil, err
		}
	}
	return s, s.addOthers(t.injection.sources, uses, find)
}

// addOthers gives each use the sources whose tokens stand beside its own.
func (s *selection) addOthers(names []string, uses map[string]*use, find func(string) (*use, error)) error {
	own := slices.Collect(maps.Values(uses))
	var others []*use
	for _, name := range names {
		other, err := find(name)
		if err != nil {
			return err
		}
		if other.identity.perCaller {
			return wrong("header", "the source %s has a token for each caller, and none that {source.%[1]s} could stand for", name)
		}
		others = append(others, other)
	}
	for _, u := range own {
		u.others = others
	}
	return nil
}

// namedSources returns those of the sources whose tokens the transport injects.
func (t *Transport) namedSources(all map[string]*Source) map[string]*Source {
	named := make(map[string]*Source)
	for name, s := range all {
		if name == t.Source || isTemplate(t.Source) && matchesAny(name, t.SourcePatterns) || slices.Contains(slices.Collect(maps.Values(t.UpstreamSources)), name) {
			named[name] = s
		}
	}
	return named
}

// addressOf is an upstream's address as it is dialed, in one form.
func addressOf(dial string) string {
	address, err := caddy.ParseNetworkAddressWithDefaults(dial, "tcp", 0)
	if err != nil || !isTCP(address.Network) {
		return dial
	}
	return net.JoinHostPort(normalHost(address.Host), portOf(address))
}

// normalHost is a host in one form: names that are the same to DNS are the same.
func normalHost(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	if ascii, err := idna.Lookup.ToASCII(host); err == nil { // as net/http does
		host = ascii
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// of returns the source for a request; nil where it names none that it may use.
// A health check names none, for no caller has sent it, and gets no token where
// it is not known which one its upstream takes.
func (s *selection) of(req *http.Request, name string) *use {
	ctx, isHealthCheck := req.Context(), isHealthCheck(req)
	if len(s.byUpstream) > 0 {
		if dial, ok := reverseproxy.GetDialInfo(ctx); ok {
			if u := s.byUpstream[net.JoinHostPort(normalHost(dial.Host), dial.Port)]; u != nil {
				return u
			}
			if isHealthCheck && len(s.byHealthPort) > 0 {
				return s.ofHost(normalHost(dial.Host))
			}
		}
	}
	if s.always != nil {
		return s.always
	}
	repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok || isHealthCheck {
		return s.none
	}
	return s.byName[repl.ReplaceAll(name, "")]
}

// isHealthCheck says whether no caller has sent a request. That of a health check has
// the server in its context all the same, from when reverse_proxy was provisioned.
func isHealthCheck(req *http.Request) bool { return req.Context().Value(caddyhttp.VarsCtxKey) == nil }

// ofHost returns the source of a host's upstreams, if it is one.
func (s *selection) ofHost(host string) *use {
	uses := s.byHealthPort[host]
	switch {
	case len(uses) == 0 && s.always != nil:
		return s.always
	case len(uses) == 1:
		return uses[0]
	}
	return s.none
}

// refuseSource answers a request that names no source it may use. The name is
// of the caller's choice, and not repeated.
func (t *Transport) refuseSource(req *http.Request) *http.Response {
	t.selection.none.tell(req, failed)
	t.log.Warn("a request was refused, for it names no token source that it may use",
		zap.String("source", t.Source), zap.Strings("sources", t.SourcePatterns))
	return answer(req, http.StatusForbidden, "This request names no token source that it may use.")
}

// checkSources wants patterns where there is something to choose, and only there.
func (t *Transport) checkSources() *mistake {
	switch {
	case isTemplate(t.Source) && len(t.SourcePatterns) == 0:
		return wrong("sources", "missing; the name of the token source holds a placeholder, so say which sources it may name, such as sources tenant-*")
	case strings.Count(t.Source, "{") != strings.Count(t.Source, "}"):
		return wrong("inject_token", "a brace in the name of the token source is not closed")
	case !isTemplate(t.Source) && len(t.SourcePatterns) > 0:
		return wrong("sources", "the name of the token source holds no placeholder, so that there is nothing to choose")
	}
	return nil
}

// checkNames finds what is wrong with names and patterns by themselves.
func (t *Transport) checkNames() *mistake {
	for _, pattern := range t.SourcePatterns {
		if strings.Trim(pattern, "abcdefghijklmnopqrstuvwxyz0123456789_-*") != "" || pattern == "" {
			return wrong("sources", "%q is not the name of a source, in which * stands for anything", pattern)
		}
	}
	seen := make(map[string]string)
	for _, upstream := range slices.Sorted(maps.Keys(t.UpstreamSources)) {
		if other, twice := seen[addressOf(upstream)]; twice {
			return wrong("upstream_source", "%s and %s are the same upstream", other, upstream)
		}
		seen[addressOf(upstream)] = upstream
		host, port, err := net.SplitHostPort(upstream)
		if _, notNumber := strconv.ParseUint(port, 10, 16); err != nil || host == "" || notNumber != nil || strings.ContainsAny(host, "/{") {
			return wrong("upstream_source", "%q is not HOST:PORT, such as api.example.org:443", upstream)
		}
		if m := checkSourceName(t.UpstreamSources[upstream]); m != nil {
			return wrong("upstream_source", "%s", m.text)
		}
	}
	return nil
}

// checkUpstreamSources wants each upstream_source to belong to an upstream, as
// far as those are known from the configuration.
func (t *Transport) checkUpstreamSources(handler *reverseproxy.Handler) *mistake {
	if handler.DynamicUpstreamsRaw != nil {
		return nil
	}
	var known []string
	for _, upstream := range handler.Upstreams {
		if strings.Contains(upstream.Dial, "{") {
			return nil
		}
		known = append(known, addressOf(upstream.Dial))
	}
	for _, upstream := range slices.Sorted(maps.Keys(t.UpstreamSources)) {
		if !slices.Contains(known, addressOf(upstream)) {
			return wrong("upstream_source", "%s is no upstream; there is %s", upstream, strings.Join(known, ", "))
		}
	}
	return nil
}

// checkPatterns wants each pattern to match one source at least.
func checkPatterns(patterns []string, sources map[string]*Source) *mistake {
	names := slices.Sorted(maps.Keys(sources))
	for _, pattern := range patterns {
		if !slices.ContainsFunc(names, func(name string) bool { return matchesAny(name, []string{pattern}) }) {
			return wrong("sources", "no token source matches %s; %s", pattern, didYouMean(strings.ReplaceAll(pattern, "*", ""), names))
		}
	}
	return nil
}

func matchesAny(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		matched, err := path.Match(pattern, name)
		return err == nil && matched
	})
}
