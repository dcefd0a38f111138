// Package provider plays authorization servers and the APIs behind them, on
// loopback, strictly: what a provider's documentation does not describe is
// refused and recorded as a violation.
package provider

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Dialect says how a provider differs from RFC 6749. The zero value is the
// RFC's: a POST of a form to /token, with Basic credentials.
type Dialect struct {
	// Path of the token endpoint; empty: /token.
	Path string

	// Authorize checks a token request and returns an OAuth error code, or ""
	// if it is in order. Nil: the RFC's client_credentials, password and
	// refresh_token for the client below.
	Authorize func(p *Provider, r *TokenRequest) (code string)

	// Write writes a successful answer. Nil: as the RFC has it.
	Write func(w http.ResponseWriter, token Token)

	// WriteError writes a refusal with an OAuth error code. Nil: as the RFC has
	// it, 401 for invalid_client and 400 for all others.
	WriteError func(w http.ResponseWriter, code string)

	// BearerToken takes the token out of a request to the API. Nil: from
	// Authorization: Bearer.
	BearerToken func(r *http.Request) string

	// Pages are further addresses of the provider, by their paths, such as
	// {"/oauth2/v0/authorize": (*Provider).ServeAuthorize}. They come before the
	// usual ones: /authorize, /device, /verify and /revoke.
	Pages map[string]func(p *Provider, w http.ResponseWriter, r *http.Request)
}

// Client, and the user of the password grant, that the zero Dialect knows.
const (
	ClientID     = "legacy-script"
	ClientSecret = "client-secret-0123456789"
	Username     = "peter"
	Password     = "correct horse battery staple"
)

// Token is what the provider issues.
type Token struct {
	Access, Refresh string
	Lifetime        time.Duration // 0: not said, and for ever
	Scope           string        // that a person has granted
}

// TokenRequest is a request that arrived at the token endpoint.
type TokenRequest struct {
	At     time.Time
	Method string
	URL    url.URL
	Header http.Header
	Body   string
	Form   url.Values // of the body
	Basic  bool       // whether Basic credentials were sent
	User   string     // of them, form-decoded
	Pass   string
}

// APIRequest is a request that arrived at the API.
type APIRequest struct {
	At      time.Time
	Method  string
	URL     url.URL
	Host    string
	Header  http.Header
	Trailer http.Header
	Body    string
	Status  int // what was answered
}

type issued struct {
	expires time.Time // zero: never
	revoked bool
	family  *family
}

// family is what descends from one grant: its access tokens, and its refresh
// tokens, each of which is issued for the one before.
type family struct {
	revoked bool
	scope   string // that a person has granted
}

type refreshToken struct {
	spent  bool
	family *family
}

// Provider is a running provider and its API, at two addresses.
type Provider struct {
	// URL of the provider and of the API, without a slash at the end.
	URL, API string

	dialect Dialect
	tb      testing.TB

	mu          sync.Mutex // guards everything below
	lifetime    time.Duration
	delay       time.Duration
	rotate      bool // issue refresh tokens, each of which is taken once
	secret      string
	intercept   func(w http.ResponseWriter, r *http.Request, n int) bool
	handler     http.HandlerFunc
	access      map[string]*issued
	refresh     map[string]*refreshToken
	family      *family // of the token that is being issued
	families    bool    // reuse of a refresh token revokes its family
	reused      int
	revoked     int // families
	requests    []*TokenRequest
	apiRequests []*APIRequest
	violations  []string
	expired     []time.Time
	person      personKnobs
	codes       map[string]*code
	visits      []*AuthorizationRequest
	devices     []*device
	revocations []*Revocation
	pins        map[string]*pin
	metadata    Metadata
	discovered  []string
}

// New starts a provider until the test ends. Its tokens live an hour.
func New(tb testing.TB, dialect Dialect) *Provider {
	p := &Provider{dialect: dialect, tb: tb, lifetime: time.Hour, secret: ClientSecret,
		access: make(map[string]*issued), refresh: make(map[string]*refreshToken), codes: make(map[string]*code)}
	auth := httptest.NewServer(http.HandlerFunc(p.serve))
	api := httptest.NewServer(http.HandlerFunc(p.serveAPI))
	tb.Cleanup(func() {
		auth.CloseClientConnections()
		api.CloseClientConnections()
		auth.Close()
		api.Close()
	})
	p.URL, p.API = auth.URL, api.URL
	return p
}

func (p *Provider) serve(w http.ResponseWriter, r *http.Request) {
	if page := p.dialect.Pages[r.URL.Path]; page != nil {
		page(p, w, r)
		return
	}
	if isWellKnown(r.URL.Path) {
		p.serveMetadata(w, r)
		return
	}
	switch r.URL.Path {
	case authorizePath:
		p.ServeAuthorize(w, r)
	case devicePath:
		p.ServeDevice(w, r)
	case verifyPath:
		p.ServeVerify(w, r)
	case revokePath:
		p.ServeRevoke(w, r)
	default:
		p.serveToken(w, r)
	}
}

// TokenURL is the address of the token endpoint.
func (p *Provider) TokenURL() string { return p.URL + p.path() }

func (p *Provider) path() string {
	if p.dialect.Path == "" {
		return "/token"
	}
	return p.dialect.Path
}

// Set changes how the provider behaves from now on.
func (p *Provider) Set(change func(*Knobs)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := Knobs{p.lifetime, p.delay, p.rotate, p.families, p.secret, p.intercept, p.handler, p.person}
	change(&k)
	p.lifetime, p.delay, p.rotate, p.families, p.secret, p.intercept, p.handler, p.person = k.Lifetime, k.Delay, k.Rotate, k.Families, k.Secret, k.Intercept, k.Handler, k.personKnobs
}

// Knobs are what a test can change of a provider.
type Knobs struct {
	// Lifetime of tokens; 0: not said in the answer, and for ever.
	Lifetime time.Duration

	// Delay before a token is issued.
	Delay time.Duration

	// Rotate issues a refresh token with each token; each is taken once.
	Rotate bool

	// Families revokes all that descends from a grant, access tokens as well,
	// when a refresh token of it comes that was spent (RFC 9700, section
	// 4.14.2).
	Families bool

	// Secret of the client; "" is a public client, which sends its id in the
	// form.
	Secret string

	// Intercept answers the n-th token request (from 1) itself, if it returns
	// true.
	Intercept func(w http.ResponseWriter, r *http.Request, n int) bool

	// Handler answers at the API a request with a valid token. Nil: 200 and
	// the words "hello METHOD PATH".
	Handler http.HandlerFunc

	personKnobs
}

// Fail is an Intercept that answers every token request with a status and an
// OAuth error code.
func Fail(status int, code string) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		writeError(w, status, code)
		return true
	}
}

// IssueRefreshToken makes a refresh token out of band, as an earlier
// authorization would have.
func (p *Provider) IssueRefreshToken() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.newRefreshToken(new(family))
}

func (p *Provider) newRefreshToken(f *family) string {
	token := "refresh-" + rand.Text()
	p.refresh[token] = &refreshToken{family: f}
	return token
}

// RevokeRefreshTokens ends every refresh token that was issued so far. One
// that is sent nevertheless is invalid_grant, and not counted by Reused.
func (p *Provider) RevokeRefreshTokens() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.refresh)
}

// Revoke ends every access token that was issued so far.
func (p *Provider) Revoke() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.access {
		t.revoked = true
	}
}

// Requests returns the token requests so far.
func (p *Provider) Requests() []*TokenRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Count returns how many token requests there were.
func (p *Provider) Count() int { return len(p.Requests()) }

// APIRequests returns the requests to the API so far.
func (p *Provider) APIRequests() []*APIRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.apiRequests)
}

// LastAPIRequest returns the newest request to the API; the test fails if
// there is none.
func (p *Provider) LastAPIRequest() *APIRequest {
	p.tb.Helper()
	all := p.APIRequests()
	if len(all) == 0 {
		p.tb.Fatal("no request came to the API")
	}
	return all[len(all)-1]
}

// LastExpiry returns when the last of the access tokens ends that were issued
// so far.
func (p *Provider) LastExpiry() (last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.access {
		if t.expires.After(last) {
			last = t.expires
		}
	}
	return last
}

// ExpiredSeen returns when requests came to the API with a token that had
// expired.
func (p *Provider) ExpiredSeen() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.expired)
}

// Reused returns how often a refresh token was sent that had been spent.
func (p *Provider) Reused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reused
}

// RevokedFamilies returns how many families were revoked because a refresh
// token of theirs had been spent twice.
func (p *Provider) RevokedFamilies() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revoked
}

// Valid says whether an access token is one at this moment.
func (p *Provider) Valid(access string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.access[access]
	return t != nil && !t.revoked && !t.family.revoked && (t.expires.IsZero() || time.Now().Before(t.expires))
}

// IssuedTokens returns every access and refresh token there ever was.
func (p *Provider) IssuedTokens() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for t := range p.access {
		all = append(all, t)
	}
	for t := range p.refresh {
		all = append(all, t)
	}
	return all
}

// Violations returns what was asked against the documentation.
func (p *Provider) Violations() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.violations)
}

// AssertStrict fails the test if anything was asked against the documentation.
func (p *Provider) AssertStrict() {
	p.tb.Helper()
	for _, v := range p.Violations() {
		p.tb.Errorf("against the provider's documentation: %s", v)
	}
}

// Violate records a violation. The caller holds the lock, as Authorize does.
func (p *Provider) Violate(format string, args ...any) string {
	p.violations = append(p.violations, fmt.Sprintf(format, args...))
	return "invalid_request"
}

// ExpectedSecret is the client's secret at present. For Authorize.
func (p *Provider) ExpectedSecret() string { return p.secret }

// Spend spends a refresh token, as a request does whose answer is lost.
func (p *Provider) Spend(token string) (code string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.SpendRefreshToken(token)
}

// SpendRefreshToken checks a refresh token and takes it, where they rotate.
// For Authorize.
func (p *Provider) SpendRefreshToken(token string) (code string) {
	t := p.refresh[token]
	if t == nil {
		return "invalid_grant"
	}
	if t.spent {
		p.reused++
		if p.families && !t.family.revoked {
			t.family.revoked = true
			p.revoked++
		}
		return "invalid_grant"
	}
	if t.family.revoked {
		return "invalid_grant"
	}
	t.spent = p.rotate
	p.family = t.family
	return ""
}

func (p *Provider) serveToken(w http.ResponseWriter, r *http.Request) {
	request, err := readTokenRequest(r)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.requests = append(p.requests, request)
	n, intercept, delay := len(p.requests), p.intercept, p.delay
	p.mu.Unlock()
	if intercept != nil && intercept(w, r, n) {
		return
	}
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return
	}
	token, code := p.issue(request)
	if code != "" {
		p.refuse(w, code)
		return
	}
	if p.dialect.Write != nil {
		p.dialect.Write(w, token)
		return
	}
	answer := map[string]any{"access_token": token.Access, "token_type": "Bearer"}
	if token.Lifetime > 0 {
		answer["expires_in"] = token.Lifetime.Seconds()
	}
	if token.Refresh != "" {
		answer["refresh_token"] = token.Refresh
	}
	if token.Scope != "" {
		answer["scope"] = token.Scope
	}
	writeJSON(w, answer)
}

func writeJSON(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(answer)
}

func readTokenRequest(r *http.Request) (*TokenRequest, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	request := &TokenRequest{At: time.Now(), Method: r.Method, URL: *r.URL, Header: r.Header.Clone(), Body: string(body)}
	request.Form, _ = url.ParseQuery(request.Body)
	user, pass, basic := r.BasicAuth()
	request.Basic = basic
	request.User, _ = url.QueryUnescape(user)
	request.Pass, _ = url.QueryUnescape(pass)
	return request, nil
}

func (p *Provider) refuse(w http.ResponseWriter, code string) {
	if p.dialect.WriteError != nil {
		p.dialect.WriteError(w, code)
		return
	}
	status := http.StatusBadRequest
	if code == "invalid_client" {
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="provider"`) // RFC 6749, section 5.2
	}
	writeError(w, status, code)
}

func writeError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if code != "" {
		_ = json.NewEncoder(w).Encode(map[string]string{"error": code})
	}
}

func (p *Provider) issue(r *TokenRequest) (Token, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.URL.Path != p.path() {
		return Token{}, p.Violate("the path %s", r.URL.Path)
	}
	authorize := p.dialect.Authorize
	if authorize == nil {
		authorize = standard
	}
	p.family = new(family)
	if code := authorize(p, r); code != "" {
		return Token{}, code
	}
	token := Token{Access: "access-" + rand.Text(), Lifetime: p.lifetime, Scope: p.family.scope}
	if p.rotate || p.person.Offline && r.Form.Get("grant_type") != "refresh_token" {
		token.Refresh = p.newRefreshToken(p.family)
	}
	record := &issued{family: p.family}
	if p.lifetime > 0 {
		record.expires = time.Now().Add(p.lifetime)
	}
	p.access[token.Access] = record
	return token, ""
}

// wellFormed says that a token request can be read in one way only: what is
// lenient in reading it must not hide what is wrong with it.
func (p *Provider) wellFormed(r *TokenRequest) (code string) {
	if n := len(r.Header.Values("Authorization")); n > 1 || n == 1 && !r.Basic {
		return p.Violate("%d fields Authorization; Basic: %v", n, r.Basic)
	}
	user, pass, _ := (&http.Request{Header: r.Header}).BasicAuth()
	for _, encoded := range []string{user, pass} {
		if _, err := url.QueryUnescape(encoded); err != nil {
			return p.Violate("Basic credentials that are not form-encoded")
		}
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return p.Violate("a query that cannot be read")
	}
	if _, err := url.ParseQuery(r.Body); err != nil {
		return p.Violate("a form that cannot be read")
	}
	if contentType := r.Header.Get("Content-Type"); contentType != "" && r.Body == "" {
		return p.Violate("content type %q without a body", contentType)
	}
	return ""
}

// client says that a request is the form of the one client, which
// authenticates by Basic or in the form, never both (RFC 6749, section 2.3.1).
func (p *Provider) client(r *TokenRequest) (code string) {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return p.Violate("%s with content type %q", r.Method, r.Header.Get("Content-Type"))
	}
	if r.URL.RawQuery != "" {
		return p.Violate("parameters in the query")
	}
	if code := p.wellFormed(r); code != "" {
		return code
	}
	id, secret := r.User, r.Pass
	if r.Basic && r.Form.Has("client_secret") {
		return p.Violate("credentials in two places")
	}
	if !r.Basic {
		id, secret = r.Form.Get("client_id"), r.Form.Get("client_secret")
	}
	if id != ClientID || secret != p.secret {
		return "invalid_client"
	}
	for name, values := range r.Form {
		if len(values) != 1 {
			return p.Violate("%s stands %d times", name, len(values))
		}
	}
	return ""
}

// standard is RFC 6749 for one client, and RFC 8628.
func standard(p *Provider, r *TokenRequest) string {
	if code := p.client(r); code != "" {
		return code
	}
	switch r.Form.Get("grant_type") {
	case "client_credentials":
		return ""
	case "authorization_code":
		return p.SpendCode(r)
	case deviceGrant:
		return p.Poll(r)
	case "password":
		if r.Form.Get("username") != Username || r.Form.Get("password") != Password {
			return "invalid_grant"
		}
		return ""
	case "refresh_token":
		return p.SpendRefreshToken(r.Form.Get("refresh_token"))
	}
	return "unsupported_grant_type"
}

// bearer returns the token of the one field Authorization: Bearer, or "" if
// there is none, another scheme, or more than one field.
func bearer(r *http.Request) string {
	fields := r.Header.Values("Authorization")
	if len(fields) != 1 {
		return ""
	}
	token, found := strings.CutPrefix(fields[0], "Bearer ")
	if !found {
		return ""
	}
	return token
}

func (p *Provider) serveAPI(w http.ResponseWriter, r *http.Request) {
	var token string
	if p.dialect.BearerToken != nil {
		token = p.dialect.BearerToken(r)
	} else {
		token = bearer(r)
	}
	p.mu.Lock()
	record := p.access[token]
	valid := record != nil && !record.revoked && !record.family.revoked
	if valid && !record.expires.IsZero() && time.Now().After(record.expires) {
		p.expired = append(p.expired, time.Now())
		valid = false
	}
	handler := p.handler
	p.mu.Unlock()

	seen := &APIRequest{At: time.Now(), Method: r.Method, URL: *r.URL, Host: r.Host, Header: r.Header.Clone(), Status: http.StatusOK}
	if !valid {
		seen.Status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		http.Error(w, "no valid token", http.StatusUnauthorized)
	} else if handler != nil {
		handler(w, r)
	} else {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		seen.Body = string(body)
		fmt.Fprintf(w, "hello %s %s", r.Method, r.URL.Path)
	}
	seen.Trailer = r.Trailer.Clone()
	p.mu.Lock()
	p.apiRequests = append(p.apiRequests, seen)
	p.mu.Unlock()
}
