package injecttoken

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// Transport is Caddy's HTTP transport with a token on each request. The token
// is put on the transport's own copy of the request, so that no other handler,
// log or upstream comes to see it.
//
// Where there is no token it answers itself: 503 where trying again can help,
// 502 where the provider rejects us, 504 where the wait ran out.
type Transport struct {
	// The name of the token source. Required. It may hold placeholders of the
	// request, such as `tenant-{http.vars.tenant}`, where sources says which
	// sources it may name.
	Source string `json:"source,omitempty"`

	// The sources that a name with placeholders may name, in which `*` stands for
	// anything, such as `tenant-*`. A request that names another one is answered
	// with 403 and not sent.
	SourcePatterns []string `json:"sources,omitempty"`

	// Other sources for some of the upstreams, by their host:port.
	UpstreamSources map[string]string `json:"upstream_sources,omitempty"`

	// The header fields that hold the token, or what goes with it. Default:
	// `Authorization: Bearer {token}`, or where the provider of the source wants it, if
	// query and basic are empty as well.
	Headers []HeaderInjection `json:"headers,omitempty"`

	// The query parameters that hold the token.
	Query []string `json:"query,omitempty"`

	// Basic credentials of which one is or holds the token, in the field
	// Authorization.
	Basic *BasicInjection `json:"basic,omitempty"`

	// The statuses of an answer by which the upstream refuses the token: another
	// one is obtained, and the request is sent once more. Default: 401. Empty: a
	// 401 goes to the caller, and the token is renewed for those that follow.
	ReplayOn []int `json:"replay_on,omitzero"`

	// The largest request body that can be sent once more, in bytes; 0: only
	// requests without a body are. Default: 64 KiB.
	ReplayBuffer *int64 `json:"replay_buffer,omitempty"`

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

	injection   *injection
	selection   *selection
	certificate *clientCertificate // nil: none whose files are followed
	nonces      *nonces
	log         *zap.Logger
	tryDuration time.Duration // reverse_proxy's lb_try_duration; 0: none
	healthPort  string        // where health is asked for at another port, or elsewhere
}

// DefaultWait is how long a request may wait for the first token.
const DefaultWait = 15 * time.Second

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
	if m := t.provisionInjection(app.(*App)); m != nil {
		return m
	}
	if t.selection, err = newSelection(t, app.(*App)); err != nil {
		return err
	}
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return quietProxy(err)
	}
	t.nonces = new(nonces)
	t.certificate = followCertificate(&t.HTTPTransport, t.log)
	return nil
}

// provisionInjection reads where the token goes, and warns of what should not
// stand there as it is.
func (t *Transport) provisionInjection(app *App) (m *mistake) {
	if t.injection, m = t.newInjection(app.filled); m != nil {
		return m
	}
	for i := range t.injection.formats {
		f := &t.injection.formats[i]
		if warning := f.literalWarning(); warning != "" {
			t.log.Warn(warning, zap.String("source", t.Source), zap.String("option", f.option+" "+f.field))
		}
	}
	return nil
}

// Cleanup closes idle connections.
func (t *Transport) Cleanup() error {
	return t.HTTPTransport.Cleanup()
}

// check finds what is wrong with all that was written.
func (t *Transport) check() *mistake {
	if t.Source == "" {
		return wrong("inject_token", "the name of a token source is missing")
	}
	if m := t.checkSources(); m != nil {
		return m
	}
	if m := t.checkOptions(); m != nil {
		return m
	}
	in, m := newInjection(t.Headers, t.Query, t.Basic)
	if m != nil {
		return m
	}
	return in.checkToken()
}

// checkOptions finds what is wrong with the options by themselves, which may
// still be read.
func (t *Transport) checkOptions() *mistake {
	switch {
	case t.Wait < 0:
		return wrong("wait", "this must be more than 0")
	case !slices.Contains([]string{"", "fail", "pass"}, t.Unavailable):
		return wrong("unavailable", "%q is neither fail nor pass", t.Unavailable)
	case !slices.Contains([]string{"", "replace", "keep"}, t.Existing):
		return wrong("existing", "%q is neither replace nor keep", t.Existing)
	}
	for _, check := range []func() *mistake{t.checkNames, t.checkReplay} {
		if m := check(); m != nil {
			return m
		}
	}
	for _, pattern := range t.AllowHosts {
		if m := checkHostPattern(pattern); m != nil {
			return m
		}
	}
	_, m := newInjection(t.Headers, t.Query, t.Basic)
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
	use := t.selection.of(req, t.Source)
	if use == nil {
		return t.refuseSource(req), nil
	}
	if refusal := t.refuse(req); refusal != nil {
		use.tell(req, failed)
		return refusal, nil
	}
	switch {
	case use.identity.perCaller && isHealthCheck(req): // of no caller
		use = t.selection.none
	case use.identity.perCaller:
		token := callerToken(req)
		if token == "" {
			use.tell(req, failed)
			return withoutCallerToken(req), nil
		}
		use = use.ofCaller(token)
	}
	attempt, out := t.injection.newAttempt(req)
	if t.Existing == "keep" && t.injection.present(req) {
		use.tell(req, kept)
		return t.send(out)
	}
	body := t.injection.newBody(req, t.replayBuffer())
	defer body.settle()
	t.clean(out, use)
	body.attach(out)
	if use.refresher == nil || followsElsewhere(req) {
		use.tell(req, passed)
		return t.send(out)
	}
	began := time.Now()
	replayable := !t.replayOff() && body.replayable()
	token, err := t.token(req.Context(), use, began, replayable)
	if next := use.successor(); err != nil && next != nil {
		use = next
		token, err = t.token(req.Context(), use, began, replayable)
	}
	var formed *formed
	if err == nil {
		formed, err = t.form(req.Context(), use, token, began)
	}
	if err != nil {
		return t.without(req, out, use, err)
	}
	resp, err := t.inject(attempt, out, formed)
	if err == nil && wantsNonce(resp, formed.token) {
		resp, err = t.proveAgain(req, resp, body, use, formed)
	}
	if err != nil || !t.refuses(resp) {
		use.tell(req, sentOutcome(injected, err))
		return resp, err
	}
	return t.replay(req, resp, body, use, formed, began, false)
}

// clean takes out of a copy of the request what the caller must not send.
func (t *Transport) clean(out *http.Request, use *use) {
	t.injection.clean(out)
	if use.caller != "" {
		takeCallerToken(out)
	}
}

// inject sends a request with a token.
func (t *Transport) inject(attempt *attempt, out *http.Request, formed *formed) (*http.Response, error) {
	attempt.hidden, attempt.injected = formed.hidden, true
	t.injection.put(out, formed)
	t.pinHost(out)
	if err := t.prove(out, formed.token); err != nil {
		return nil, err
	}
	t.certificate.look()
	resp, err := t.HTTPTransport.RoundTrip(out)
	if err != nil {
		return nil, attempt.hidden.quiet(err)
	}
	if formed.token.IsBound() {
		t.nonces.learn(out, resp)
	}
	attempt.scrubAnswer(resp, out.Method)
	return resp, nil
}

// sentOutcome is the outcome of a request that was sent, unless it never left.
func sentOutcome(outcome string, err error) string {
	if _, ok := errors.AsType[reverseproxy.DialError](err); ok {
		return failed
	}
	return outcome
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

// token returns a valid token. A request that cannot be sent twice gets none
// that an upstream has just refused while another is on its way.
func (t *Transport) token(ctx context.Context, use *use, began time.Time, replayable bool) (*tokensource.Token, error) {
	if token := use.refresher.Current(); token != nil && (replayable || !use.refresher.Suspect()) {
		return token, nil
	}
	ctx, cancel := t.patience(ctx, began)
	defer cancel()
	if replayable {
		return use.refresher.Token(ctx)
	}
	return use.refresher.Unsuspected(ctx)
}

// patience bounds the time for which a request may wait for a token, from its
// beginning: by our own wait, by reverse_proxy's lb_try_duration and by the
// deadline that the context has already, whichever ends first.
func (t *Transport) patience(ctx context.Context, began time.Time) (context.Context, context.CancelFunc) {
	if t.tryDuration > 0 && t.tryDuration < time.Duration(t.Wait) {
		return context.WithDeadlineCause(ctx, began.Add(t.tryDuration), errTryDuration)
	}
	return context.WithDeadlineCause(ctx, began.Add(time.Duration(t.Wait)), errWait)
}

// Which time ran out.
var (
	errWait        = errors.New("wait")
	errTryDuration = errors.New("lb_try_duration")
)

// without decides about a request for which there is no token.
func (t *Transport) without(req, out *http.Request, use *use, err error) (*http.Response, error) {
	if gone := req.Context().Err(); errors.Is(gone, context.Canceled) {
		use.tell(req, failed)
		return nil, gone // the caller has left
	}
	if use.caller != "" && refusesCaller(err) {
		use.tell(req, failed)
		return callerRefused(req), nil
	}
	if t.Unavailable == "pass" {
		use.tell(req, passed)
		return t.send(out)
	}
	use.tell(req, failed)
	return unavailable(req, use.name, err), nil
}
