package injecttoken

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// Transport is Caddy's HTTP transport with a token on each request. The token
// is put on the transport's own copy of the request, so that no other handler,
// log or upstream comes to see it.
//
// Where there is no token it answers itself: 503 where trying again can help,
// 502 where the provider rejects us, 504 where the wait ran out.
type Transport struct {
	// The name of the token source. Required.
	Source string `json:"source,omitempty"`

	// The header fields that hold the token. Default: `Authorization: Bearer
	// {token}`, where query is empty as well.
	Headers []HeaderInjection `json:"headers,omitempty"`

	// The query parameters that hold the token.
	Query []string `json:"query,omitempty"`

	// How long a request may wait where there is no token yet. Default: 15s; half
	// of unhealthy_latency where that is less.
	Wait caddy.Duration `json:"wait,omitempty"`

	// What happens where there is no token: `fail` (the default), or `pass` to
	// send the request without one.
	Unavailable string `json:"unavailable,omitempty"`

	// What happens to the caller's own value where the token goes: `replace`
	// (the default), or `keep` to leave such a request as it is.
	Existing string `json:"existing,omitempty"`

	// The hosts that may get the token, such as `*.example.org`. Required where
	// an upstream's address holds a placeholder.
	AllowHosts []string `json:"allow_hosts,omitempty"`

	// The HTTP transport beneath, with its own options.
	reverseproxy.HTTPTransport `json:"http,omitzero"`

	injection *injection
	refresher *refresher.Refresher
	log       *zap.Logger
	told      map[string]told // by outcome
}

// DefaultWait is how long a request may wait for the first token.
const DefaultWait = 15 * time.Second

// What became of the token of a request: the values of the access log's
// token_outcome and of the placeholder {http.inject_token.outcome}.
const (
	injected = "injected" // the request went out with the token
	refused  = "refused"  // it did, and the upstream said 401
	passed   = "passed"   // it went out without one
	kept     = "kept"     // it went out with the caller's own credential
	failed   = "failed"   // it did not go out
)

// told is what the access log and the placeholders say of one outcome, made
// once: both fields of the log in one, which costs a request less.
type told struct {
	field           zap.Field
	source, outcome any
}

func newTold(source, outcome string) told {
	field := zap.Inline(zapcore.ObjectMarshalerFunc(func(e zapcore.ObjectEncoder) error {
		e.AddString("token_source", source)
		e.AddString("token_outcome", outcome)
		return nil
	}))
	field.Key = "inject_token" // not shown
	return told{field, source, outcome}
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.inject_token",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision checks the options and finds the token source.
func (t *Transport) Provision(ctx caddy.Context) error {
	t.log = ctx.Logger()
	if m := t.check(); m != nil {
		return m
	}
	in, m := newInjection(t.Headers, t.Query)
	if m != nil {
		return m
	}
	t.injection = in
	t.prepareTold()
	if m := t.checkUpstreams(ctx); m != nil {
		return m
	}
	if t.Wait == 0 {
		t.Wait = caddy.Duration(DefaultWait)
	}

	app, err := ctx.AppIfConfigured("token_sources")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return unknownSource(t.Source, nil)
	} else if err != nil {
		return err
	}
	if t.refresher, err = app.(*App).refresher(t.Source); err != nil {
		return err
	}
	return quietProxy(t.HTTPTransport.Provision(ctx))
}

// Cleanup closes idle connections.
func (t *Transport) Cleanup() error {
	return t.HTTPTransport.Cleanup()
}

func (t *Transport) prepareTold() {
	t.told = make(map[string]told)
	for _, outcome := range []string{injected, refused, passed, kept, failed} {
		t.told[outcome] = newTold(t.Source, outcome)
	}
}

// check finds what is wrong with the options by themselves.
func (t *Transport) check() *mistake {
	switch {
	case t.Source == "":
		return wrong("inject_token", "the name of a token source is missing")
	case strings.Contains(t.Source, "{"):
		return wrong("inject_token", "the name of a token source cannot hold a placeholder")
	case t.Wait < 0:
		return wrong("wait", "this must be more than 0")
	case !slices.Contains([]string{"", "fail", "pass"}, t.Unavailable):
		return wrong("unavailable", "%q is neither fail nor pass", t.Unavailable)
	case !slices.Contains([]string{"", "replace", "keep"}, t.Existing):
		return wrong("existing", "%q is neither replace nor keep", t.Existing)
	}
	for _, pattern := range t.AllowHosts {
		if m := checkHostPattern(pattern); m != nil {
			return m
		}
	}
	_, m := newInjection(t.Headers, t.Query)
	return m
}

// RoundTrip sends a copy of the request with the token on it. The request
// itself stays as it is, and the answer refers to it: what refers to the copy
// might show the token.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.roundTrip(req)
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

func (t *Transport) roundTrip(req *http.Request) (*http.Response, error) {
	if refusal := t.refuse(req); refusal != nil {
		t.tell(req, failed)
		return refusal, nil
	}
	attempt, out := t.injection.newAttempt(req)
	if t.Existing == "keep" && t.injection.present(req) {
		t.tell(req, kept)
		return t.send(out)
	}
	t.injection.clean(out)
	if followsElsewhere(req) {
		t.tell(req, passed)
		return t.send(out)
	}
	token, err := t.token(req.Context())
	if err != nil {
		return t.without(req, out, err)
	}

	attempt.hidden, attempt.injected = t.injection.put(out, token), true
	t.pinHost(out)
	resp, err := t.HTTPTransport.RoundTrip(out)
	if err != nil {
		outcome := injected
		if _, ok := errors.AsType[reverseproxy.DialError](err); ok {
			outcome = failed // it never left
		}
		t.tell(req, outcome)
		return nil, attempt.hidden.quiet(err)
	}
	attempt.scrubAnswer(resp, req.Method)
	if t.refuses(resp) {
		t.tell(req, refused)
		t.refresher.Report(token)
	} else {
		t.tell(req, injected)
	}
	return resp, nil
}

// send sends a request without a token.
func (t *Transport) send(out *http.Request) (*http.Response, error) {
	resp, err := t.HTTPTransport.RoundTrip(out)
	if err != nil {
		err = hidden{}.quiet(err)
	}
	return resp, err
}

// refuse answers what must not be sent with a token, nor without one.
func (t *Transport) refuse(req *http.Request) *http.Response {
	switch {
	case neverSent(req.Method):
		resp := answer(req, http.StatusMethodNotAllowed, "TRACE and CONNECT are not sent to this API: the one would echo the token, the other lead it elsewhere.")
		resp.Header.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		return resp
	case req.URL.Opaque != "": // "x:http://elsewhere/" would be sent as it stands
		return answer(req, http.StatusBadRequest, "This is not a request target that can be sent to this API.")
	case len(t.AllowHosts) > 0 && !t.allowed(req):
		t.log.Warn("a request for a host that is not in allow_hosts was refused",
			zap.String("source", t.Source), zap.Strings("allow_hosts", t.AllowHosts))
		return answer(req, http.StatusForbidden, "The token for this API is not sent to that host.")
	}
	return nil
}

// neverSent says whether a method is one by which an upstream could echo the
// token, or that names a host of the caller's choice. There are servers that
// do not look at letter case.
func neverSent(method string) bool {
	return strings.EqualFold(method, http.MethodTrace) || strings.EqualFold(method, http.MethodConnect)
}

// token returns a valid token; the time to wait for one is the caller's own or
// ours, whichever is shorter.
func (t *Transport) token(ctx context.Context) (*tokensource.Token, error) {
	if token := t.refresher.Current(); token != nil {
		return token, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(t.Wait))
	defer cancel()
	return t.refresher.Token(ctx)
}

// without decides about a request for which there is no token.
func (t *Transport) without(req, out *http.Request, err error) (*http.Response, error) {
	if gone := req.Context().Err(); errors.Is(gone, context.Canceled) {
		t.tell(req, failed)
		return nil, gone // the caller has left
	}
	if t.Unavailable == "pass" {
		t.tell(req, passed)
		return t.send(out)
	}
	t.tell(req, failed)
	return unavailable(req, t.Source, err), nil
}

// refuses says whether an answer means that the token is dead. A token that
// lacks a scope is not.
func (t *Transport) refuses(resp *http.Response) bool {
	if resp.StatusCode != http.StatusUnauthorized {
		return false
	}
	for _, challenge := range resp.Header["Www-Authenticate"] {
		if strings.Contains(challenge, "insufficient_scope") {
			return false
		}
	}
	return true
}

// tell puts the outcome into the access log and into placeholders. Health
// checks have neither.
func (t *Transport) tell(req *http.Request, outcome string) {
	told := t.told[outcome]
	ctx := req.Context()
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(told.field)
	}
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.inject_token.source", told.source)
		repl.Set("http.inject_token.outcome", told.outcome)
	}
}
