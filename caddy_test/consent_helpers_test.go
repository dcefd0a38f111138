package caddy_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// consent is a source that needs a person, its provider, and a Caddy with a
// site that proxies with it and has the landing page.
type consent struct {
	t *testing.T
	p *provider.Provider
	c *harness.Caddy

	// What may be changed before start.
	grant       string // empty: authorization_code
	endpoints   string // empty: all of the provider
	redirectURI string // empty: that of the site; "-": none
	scope       string // empty: read write
	options     string // further ones of the source
	moreOptions string // and such as change
	keys        string // of token_sources
	globals     string // such as a storage
	inject      string // options of inject_token
	landing     string // empty: token_callback /callback
	moreSources string
	control     *faultstorage.Control // of a storage that fails

	port int
	told *told
}

// told is what must not be seen in a log.
type told struct {
	mu   sync.Mutex // guards what follows
	all  []string   // states, and what a person has pasted
	free bool       // it may be seen, for a reason
}

func (l *told) add(texts ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range texts {
		if len(text) >= 8 {
			l.all = append(l.all, text)
		}
	}
}

// newConsent has a provider with refresh tokens, each of which is taken once.
func newConsent(t *testing.T, knobs func(k *provider.Knobs)) *consent {
	t.Helper()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) {
		k.Rotate, k.Families = true, true
		if knobs != nil {
			knobs(k)
		}
	})
	return &consent{t: t, p: p, port: harness.Port(t), told: new(told)}
}

// node is the same source in a Caddy of its own.
func (a *consent) node() *consent {
	a.t.Helper()
	next := *a
	next.redirectURI = a.callback()
	next.port, next.c = harness.Port(a.t), nil
	return &next
}

func (a *consent) url() string { return "http://127.0.0.1:" + itoa(a.port) }

// callback is the redirect_uri.
func (a *consent) callback() string { return cmp.Or(a.redirectURI, a.url()+"/callback") }

func (a *consent) defaultEndpoints() string {
	if a.grant == "device_code" {
		return "device_url " + a.p.DeviceURL() + "\n token_url " + a.p.TokenURL() + "\n revoke_url " + a.p.RevokeURL()
	}
	return "authorize_url " + a.p.AuthorizeURL() + "\n token_url " + a.p.TokenURL() + "\n revoke_url " + a.p.RevokeURL()
}

func (a *consent) caddyfile() string {
	redirect := "redirect_uri " + a.callback()
	if a.redirectURI == "-" || a.grant == "device_code" {
		redirect = ""
	}
	if a.control != nil {
		a.globals = "{{storage}}"
	}
	return fmt.Sprintf(`{
	%s
	%s
	token_sources {
		%s
		source crm {
			grant %s
			%s
			%s
			client_id %s
			client_secret {file.{{dir}}/secret}
			scope %s
			%s
			%s
		}
		%s
	}
}
http://:%d {
	bind 127.0.0.1
	log
	%s
	inject_token crm %s {
		%s
	}
}
`, clusterGlobals, a.globals, a.keys, cmp.Or(a.grant, "authorization_code"), cmp.Or(a.endpoints, a.defaultEndpoints()), redirect, provider.ClientID,
		cmp.Or(a.scope, "read write"), a.options, a.moreOptions, a.moreSources, a.port, cmp.Or(a.landing, "token_callback /callback"), a.p.API, a.inject)
}

// start runs Caddy, and looks through its log in the end.
func (a *consent) start(options ...harness.Option) *consent {
	a.t.Helper()
	options = append(options, withSecret(a.p.ExpectedSecret()))
	if a.control != nil {
		a.c = a.control.Caddy(a.t, a.caddyfile(), options...)
	} else {
		a.c = harness.Start(a.t, a.caddyfile(), options...)
	}
	a.watch()
	return a
}

// again starts Caddy once more that has ended.
func (a *consent) again(options ...harness.Option) {
	a.t.Helper()
	if a.control != nil {
		options = append(options, harness.Executable(faultstorage.Binary(a.t)))
	}
	a.c = a.c.Again(options...)
	a.watch()
}

// reload loads what the source says now.
func (a *consent) reload() {
	a.t.Helper()
	text := a.caddyfile()
	if a.control != nil {
		a.t.Fatal("a reload with a storage that fails is not made for this")
	}
	if err := a.c.Reload(text); err != nil {
		a.t.Fatal(err)
	}
}

// watch looks through Caddy's log in the end: there is no code, no state, no
// token and no secret in it.
func (a *consent) watch() {
	c := a.c
	a.t.Cleanup(func() {
		c.Stop()
		log := c.Log()
		for _, text := range a.secrets() {
			if strings.Contains(log, text) || strings.Contains(log, url.QueryEscape(text)) {
				a.t.Errorf("the log holds %q", text)
			}
		}
	})
}

// secrets is what must not be seen: codes, states, verifiers and tokens.
func (a *consent) secrets() []string {
	all := append(a.p.IssuedCodes(), a.p.IssuedTokens()...)
	all = append(all, a.p.PINs()...)
	all = append(all, a.p.ExpectedSecret())
	for _, r := range a.p.Requests() {
		if verifier := r.Form.Get("code_verifier"); verifier != "" {
			all = append(all, verifier)
		}
	}
	a.told.mu.Lock()
	defer a.told.mu.Unlock()
	if a.told.free {
		return append([]string{a.p.ExpectedSecret()}, a.p.IssuedTokens()...)
	}
	return append(all, a.told.all...)
}

// consentState is what the admin API says of a source.
type consentState struct {
	Name        string
	Grant       string
	State       string
	HasToken    bool `json:"has_token"`
	Refreshable bool
	Scopes      []string
	Failures    int
	Error       struct{ Code, Description, Message string }
	Storage     string
	Authorize   string
	Counter     int
}

// consentRequest is what the admin API says of an authorization.
type consentRequest struct {
	ID, Source, Status      string
	URL                     string `json:"authorization_url"`
	RedirectURI             string `json:"redirect_uri"`
	UserCode                string `json:"user_code"`
	VerificationURI         string `json:"verification_uri"`
	VerificationURIComplete string `json:"verification_uri_complete"`
	Interval                float64
	Error                   string
	Message                 string
	Scopes                  []string
}

// admin asks the admin API; fields are NAME, VALUE, … of the header.
func (a *consent) admin(method, path, body string, fields ...string) answered {
	a.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, "http://"+a.c.Admin+path, reader)
	if err != nil {
		a.t.Fatal(err)
	}
	req.Close = true // a reload replaces the admin API's server
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "Host" {
			req.Host = fields[i+1]
		} else if req.Header.Set(fields[i], fields[i+1]); fields[i+1] == "" {
			req.Header.Del(fields[i])
		}
	}
	resp, text := harness.Do(a.t, req)
	return answered{status: resp.StatusCode, header: resp.Header, body: text}
}

// state is what the admin API says of the source.
func (a *consent) state() (s consentState) {
	a.t.Helper()
	got := a.admin(http.MethodGet, "/token_sources/crm", "")
	if got.status != http.StatusOK || json.Unmarshal([]byte(got.body), &s) != nil {
		a.t.Fatalf("the state of the source: %d %s", got.status, got.body)
	}
	return s
}

// tryToBegin begins an authorization, if it can.
func (a *consent) tryToBegin() (got answered, begun consentRequest) {
	a.t.Helper()
	got = a.admin(http.MethodPost, "/token_sources/crm/authorize", "")
	_ = json.Unmarshal([]byte(got.body), &begun)
	if begun.URL != "" {
		a.told.add(query(a.t, begun.URL).Get("state"))
	}
	return got, begun
}

// begin begins an authorization.
func (a *consent) begin() consentRequest {
	a.t.Helper()
	got, begun := a.tryToBegin()
	if got.status != http.StatusOK || begun.ID == "" || begun.Status != "pending" {
		a.t.Fatalf("begun: %d %s", got.status, got.body)
	}
	return begun
}

// agree is a person who opens the authorization URL and agrees. It returns the
// address to which the provider sends the browser.
func (a *consent) agree(begun consentRequest) (landing string) {
	a.t.Helper()
	visited := a.p.Visit(begun.URL)
	if visited.Location == "" || visited.Answer.Get("code") == "" {
		a.t.Fatalf("the authorization page of %s: %+v", begun.URL, visited)
	}
	return visited.Location
}

// land goes to the landing page of this Caddy, whosever redirect_uri it is.
func (a *consent) land(landing string) answered {
	a.t.Helper()
	return tryToAsk(a.url() + "/callback?" + rawQuery(a.t, landing))
}

// complete gives an authorization what a person has pasted.
func (a *consent) complete(id, text string) (got answered, result consentRequest) {
	a.t.Helper()
	body, err := json.Marshal(map[string]string{"id": id, "code": text})
	if err != nil {
		a.t.Fatal(err)
	}
	got = a.admin(http.MethodPost, "/token_sources/crm/complete", string(body))
	_ = json.Unmarshal([]byte(got.body), &result)
	return got, result
}

// poll asks for an authorization.
func (a *consent) poll(id string) (got answered, result consentRequest) {
	a.t.Helper()
	got = a.admin(http.MethodGet, "/token_sources/crm/authorizations/"+id, "")
	_ = json.Unmarshal([]byte(got.body), &result)
	return got, result
}

// isIn says whether an authorization has come to a status.
func (a *consent) isIn(id string, statuses ...string) func() bool {
	return func() bool {
		_, result := a.poll(id)
		for _, status := range statuses {
			if result.Status == status {
				return true
			}
		}
		return false
	}
}

// authorize is the whole: begun, agreed and landed.
func (a *consent) authorize() consentRequest {
	a.t.Helper()
	begun := a.begin()
	a.assertLanded(a.land(a.agree(begun)))
	return begun
}

// call is a caller of the site.
func (a *consent) call() answered { return tryToAsk(a.url() + "/x") }

// serves says whether callers get the API's answer.
func (a *consent) serves() bool {
	got := a.call()
	return got.status == http.StatusOK && got.body == "hello GET /x"
}

func (a *consent) assertServes(when string) {
	a.t.Helper()
	if got := a.call(); got.status != http.StatusOK || got.body != "hello GET /x" {
		a.t.Errorf("%s a caller got %d %q", when, got.status, got.body)
	}
}

// needsPerson says whether callers are told that a person is needed.
func (a *consent) needsPerson() bool {
	got := a.call()
	return got.status == http.StatusBadGateway && strings.Contains(got.body, "caddy token-source authorize crm")
}

// assertNeedsPerson wants a source without a token that says what to do, to
// callers and at the admin API.
func (a *consent) assertNeedsPerson(when string) {
	a.t.Helper()
	got := a.call()
	if got.status != http.StatusBadGateway || !strings.Contains(got.body, "caddy token-source authorize crm") || !strings.Contains(got.header.Get("Proxy-Status"), `details="`) {
		a.t.Errorf("%s a caller got %d %q %q", when, got.status, got.body, got.header.Get("Proxy-Status"))
	}
	if s := a.state(); s.State != "needs_authorization" || s.HasToken || s.Authorize != "caddy token-source authorize crm" {
		a.t.Errorf("%s the source is %+v", when, s)
	}
}

// assertAsked wants so many token requests until now.
func (a *consent) assertAsked(when string, want int) {
	a.t.Helper()
	if got := a.p.Count(); got != want {
		var each []string
		for _, r := range a.p.Requests() {
			each = append(each, r.At.Format("15:04:05.000 ")+r.Form.Get("grant_type"))
		}
		a.t.Errorf("%s there were %d token requests, want %d: %v", when, got, want, each)
	}
}

// assertPage wants a page of ours, which does nothing but say something.
func (a *consent) assertPage(got answered, statuses ...int) {
	a.t.Helper()
	isOne := false
	for _, status := range statuses {
		isOne = isOne || got.status == status
	}
	if !isOne {
		a.t.Errorf("the landing page answered %d, want one of %v: %s", got.status, statuses, got.body)
	}
	for field, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Content-Type": "text/html",
	} {
		if value := got.header.Values(field); len(value) != 1 || !strings.Contains(value[0], want) {
			a.t.Errorf("the landing page has %s %q", field, value)
		}
	}
	for _, field := range []string{"Location", "Refresh", "Set-Cookie", "Link"} {
		if value := got.header.Values(field); len(value) > 0 {
			a.t.Errorf("the landing page has %s %q", field, value)
		}
	}
	for _, tag := range tags.FindAllString(got.body, -1) {
		if !harmless.MatchString(tag) {
			a.t.Errorf("the landing page holds %.100q:\n%.3000s", tag, got.body)
		}
	}
}

var (
	tags = regexp.MustCompile(`(?s)<[^>]*>?`)

	// harmless is what a page of ours consists of.
	harmless = regexp.MustCompile(`^<(!DOCTYPE html|html lang="en"|meta (charset|name)="[^"]*"( content="[^"]*")?|/?(html|head|title|style|body|h1|h2|p|strong|b|code|br))>$`)
)

// assertLanded wants the page that says that it is done.
func (a *consent) assertLanded(got answered) {
	a.t.Helper()
	a.assertPage(got, http.StatusOK)
	if !strings.Contains(got.body, "Authorized") || !strings.Contains(got.body, "crm") {
		a.t.Errorf("the landing page says: %s", got.body)
	}
}

// asked says whether there were so many token requests.
func (a *consent) asked(n int) func() bool { return func() bool { return a.p.Count() >= n } }

func query(t testing.TB, address string) url.Values {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

func rawQuery(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.RawQuery
}

// changed is an address with another value of parameters; with none, they are
// left out.
func changed(t testing.TB, address, name string, values ...string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q[name] = values
	u.RawQuery = q.Encode()
	return u.String()
}

// held keeps a token request until it is released, and answers it then.
type held struct {
	arrived, release chan struct{}
	once             sync.Once
}

func newHeld() *held { return &held{arrived: make(chan struct{}), release: make(chan struct{})} }

// intercept is a provider's Intercept.
func (h *held) intercept(_ http.ResponseWriter, r *http.Request, _ int) bool {
	h.once.Do(func() { close(h.arrived) })
	select {
	case <-h.release:
		return false
	case <-r.Context().Done():
		return true
	}
}

// await waits until the token request is there.
func (h *held) await(t testing.TB) {
	t.Helper()
	select {
	case <-h.arrived:
	case <-time.After(30 * time.Second):
		t.Fatal("no token request came")
	}
}

// compact is a JSON text without blanks.
func compact(text string) string {
	var out bytes.Buffer
	if json.Compact(&out, []byte(text)) != nil {
		return text
	}
	return out.String()
}

// intercept has token requests answered by somebody else; nil ends it.
func (a *consent) intercept(by func(w http.ResponseWriter, r *http.Request, n int) bool) {
	a.p.Set(func(k *provider.Knobs) { k.Intercept = by })
}
