package caddy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// authorizeCommand is what a person is told to do.
const authorizeCommand = "caddy token-source authorize crm"

// personWorld is oidc-provider, whose pages a person uses; an API that asks it
// about each token; and an address to which it sends the browser back.
type personWorld struct {
	t        *testing.T
	issuer   string
	tokenURL string
	callback string
	api      *activeAPI
}

// newPersonWorld starts them. Access tokens live so many seconds. The provider
// sends browsers to the callback, which may be empty.
func newPersonWorld(t *testing.T, seconds int, callback string) *personWorld {
	t.Helper()
	env := []string{"AT_TTL=" + itoa(seconds)}
	if callback != "" {
		env = append(env, "REDIRECT_URIS="+callback)
	}
	w := &personWorld{t: t, issuer: "http://" + harness.StartNodeServer(t, "oidc", env...), callback: callback}
	w.tokenURL = w.issuer + "/token"
	w.api = newActiveAPI(t, w.issuer)
	return w
}

// endpoints says where the provider is, and where it sends the browser.
func (w *personWorld) endpoints() string {
	return fmt.Sprintf(`grant authorization_code
			authorize_url %s/auth
			token_url %s
			redirect_uri %s
			authorize_param prompt consent`, w.issuer, w.tokenURL, w.callback)
}

// The clients that oidc-provider knows.
const (
	withASecret = "client_id " + provider.ClientID + "\n\t\t\tclient_secret {file.{{dir}}/secret}"
	native      = "client_id native"
	onADevice   = "client_id device"
)

// source is a source crm.
func (*personWorld) source(options ...string) string {
	return fmt.Sprintf(`source crm {
			scope offline_access api
			%s
		}`, strings.Join(options, "\n\t\t\t"))
}

// site is a configuration with a source and one site, of which the callback is
// a part.
func (w *personWorld) site(source string) (text, address string) {
	u, err := url.Parse(w.callback)
	if err != nil {
		w.t.Fatal(err)
	}
	address = "http://" + u.Host
	return fmt.Sprintf(`{
	{{globals}}
	token_sources {
		%s
	}
}
%s {
	bind 127.0.0.1
	log
	token_callback %s
	inject_token crm %s
}
`, source, address, u.Path, w.api.URL), address
}

// begin starts a Caddy with a site.
func (w *personWorld) start(source string) (c *personCaddy, address string) {
	w.t.Helper()
	text, address := w.site(source)
	return &personCaddy{harness.Start(w.t, text, withSecret(provider.ClientSecret)), w.t}, address
}

// stats is what oidc-provider has counted.
func (w *personWorld) stats() oidcStats {
	w.t.Helper()
	return statsOf(w.t, w.issuer)
}

// assertNeverReused wants no refresh token to have been sent twice.
func (w *personWorld) assertNeverReused() {
	w.t.Helper()
	if stats := w.stats(); stats.Reused+stats.FamiliesRevoked+stats.InvalidGrant > 0 {
		w.t.Errorf("oidc-provider counts %+v", stats)
	}
}

// revokeGrants ends all grants, as the owner of the account does in the
// settings of it.
func (w *personWorld) revokeGrants() {
	w.t.Helper()
	resp, err := http.Post(w.issuer+"/revoke", "", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
}

// nobody is an address on loopback at which nobody listens.
func nobody(t *testing.T) string {
	return "http://127.0.0.1:" + itoa(harness.Port(t)) + "/callback"
}

// personCaddy is a Caddy, and its admin API as far as a person's part goes.
type personCaddy struct {
	*harness.Caddy
	t *testing.T
}

// personStatus is what the admin API says of a source.
type personStatus struct {
	Grant, Provider, State, Authorize string
	HasToken                          bool `json:"has_token"`
	Refreshable                       bool
	Scopes                            []string
	Error                             *struct {
		Code      string
		Permanent bool
	}
}

// personAuthorization is what it says of an authorization.
type personAuthorization struct {
	ID, Source, Status, Error, Message string
	AuthorizationURL                   string `json:"authorization_url"`
	UserCode                           string `json:"user_code"`
	VerificationURI                    string `json:"verification_uri"`
	VerificationURIComplete            string `json:"verification_uri_complete"`
	Interval                           float64
	Scopes                             []string
	TokenExpires                       time.Time `json:"token_expires"`
}

// state is the value that the provider is to send back.
func (a personAuthorization) state() string {
	u, err := url.Parse(a.AuthorizationURL)
	if err != nil {
		return ""
	}
	return u.Query().Get("state")
}

// ask sends a request to the admin API, and reads a good answer into result.
func (c *personCaddy) ask(method, path string, body, result any) (status int, text string) {
	c.t.Helper()
	sent := new(bytes.Buffer)
	if body != nil {
		if err := json.NewEncoder(sent).Encode(body); err != nil {
			c.t.Fatal(err)
		}
	}
	req, err := http.NewRequest(method, "http://"+c.Admin+path, sent)
	if err != nil {
		c.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, text := harness.Do(c.t, req)
	if resp.StatusCode == http.StatusOK && result != nil {
		if err := json.Unmarshal([]byte(text), result); err != nil {
			c.t.Fatalf("%s %s answered %q: %v", method, path, text, err)
		}
	}
	return resp.StatusCode, text
}

// status is that of crm.
func (c *personCaddy) status() (s personStatus) {
	c.t.Helper()
	if code, text := c.ask(http.MethodGet, "/token_sources/crm", nil, &s); code != http.StatusOK {
		c.t.Fatalf("the status of crm answered %d %s", code, text)
	}
	return s
}

// begin begins an authorization of crm.
func (c *personCaddy) begin() (a personAuthorization) {
	c.t.Helper()
	if code, text := c.ask(http.MethodPost, "/token_sources/crm/authorize", nil, &a); code != http.StatusOK {
		c.t.Fatalf("beginning an authorization answered %d %s", code, text)
	}
	return a
}

// look asks how an authorization stands.
func (c *personCaddy) look(id string) (a personAuthorization) {
	c.t.Helper()
	if code, text := c.ask(http.MethodGet, "/token_sources/crm/authorizations/"+id, nil, &a); code != http.StatusOK {
		c.t.Fatalf("the authorization answered %d %s", code, text)
	}
	return a
}

// complete hands in what a person has pasted.
func (c *personCaddy) complete(id, code string) (a personAuthorization, status int, text string) {
	c.t.Helper()
	body := map[string]string{"code": code}
	if id != "" {
		body["id"] = id
	}
	status, text = c.ask(http.MethodPost, "/token_sources/crm/complete", body, &a)
	return a, status, text
}

// awaitOutcome polls until an authorization is over.
func (c *personCaddy) awaitOutcome(id string) (a personAuthorization) {
	c.t.Helper()
	c.Eventually(time.Minute, "the authorization is over", func() bool {
		a = c.look(id)
		return a.Status != "pending" && a.Status != "exchanging"
	})
	return a
}

// assertNeedsAPerson wants a request to be told so, and the status as well.
func (c *personCaddy) assertNeedsAPerson(address, details string) {
	c.t.Helper()
	resp, body := harness.Get(c.t, address+"/x")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, authorizeCommand) {
		c.t.Errorf("a request was answered %d %q, not 502 with the command", resp.StatusCode, body)
	}
	if got := resp.Header.Get("Proxy-Status"); !strings.Contains(got, `details="`+details+`"`) {
		c.t.Errorf("Proxy-Status is %q, not with details %s", got, details)
	}
	if s := c.status(); s.State != "needs_authorization" || s.Authorize != authorizeCommand {
		c.t.Errorf("the status is %+v", s)
	}
}

// assertServed wants the API's answer.
func (c *personCaddy) assertServed(address string) {
	c.t.Helper()
	if resp, body := harness.Get(c.t, address+"/x"); resp.StatusCode != http.StatusOK || body != "active: offline_access api" {
		c.t.Errorf("a request was answered %d %q", resp.StatusCode, body)
	}
}

// activeAPI is an API that serves whoever has a token that the provider calls
// active.
type activeAPI struct {
	*httptest.Server
	mu       sync.Mutex // guards what follows
	tokens   []string   // that were active, each once
	referers []string
}

func newActiveAPI(t *testing.T, issuer string) *activeAPI {
	api := new(activeAPI)
	api.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		scope, err := introspectAtOIDC(issuer, token)
		if err != nil {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		api.mu.Lock()
		defer api.mu.Unlock()
		if !slices.Contains(api.tokens, token) {
			api.tokens = append(api.tokens, token)
		}
		api.referers = append(api.referers, r.Referer())
		fmt.Fprint(w, "active: ", scope)
	}))
	t.Cleanup(api.Close)
	return api
}

// seen returns the tokens that were active, and all referrers.
func (a *activeAPI) seen() (tokens, referers []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.tokens), slices.Clone(a.referers)
}

// distinct returns how many different tokens were active.
func (a *activeAPI) distinct() int {
	tokens, _ := a.seen()
	return len(tokens)
}

// introspectAtOIDC returns the scope of an active token.
func introspectAtOIDC(issuer, token string) (scope string, err error) {
	req, err := http.NewRequest(http.MethodPost, issuer+"/token/introspection", strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(provider.ClientID, provider.ClientSecret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Active bool
		Scope  string
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return "", err
	}
	if !answer.Active {
		return "", fmt.Errorf("the provider does not know this token")
	}
	return answer.Scope, nil
}

// exchanges stands before the token endpoint and keeps what goes through.
type exchanges struct {
	*httptest.Server
	mu     sync.Mutex // guards values
	values map[string]string
}

// secretOf are the fields of token requests and answers that nobody may see.
var secretOf = []string{"code", "code_verifier", "access_token", "refresh_token"}

func newExchanges(t *testing.T, tokenURL string) *exchanges {
	target, err := url.Parse(tokenURL)
	if err != nil {
		t.Fatal(err)
	}
	e := &exchanges{values: make(map[string]string)}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL, r.Out.Host = target, "" },
		ModifyResponse: func(resp *http.Response) error {
			body, err := io.ReadAll(resp.Body)
			resp.Body = io.NopCloser(bytes.NewReader(body))
			var answer map[string]any
			if err == nil && json.Unmarshal(body, &answer) == nil {
				e.keep(func(name string) string { s, _ := answer[name].(string); return s })
			}
			return err
		},
	}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		form, _ := url.ParseQuery(string(body))
		e.keep(form.Get)
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *exchanges) keep(get func(name string) string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range secretOf {
		if value := get(name); value != "" {
			e.values[value] = name
		}
	}
}

// all returns what went through, by its value.
func (e *exchanges) all() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make(map[string]string)
	for value, name := range e.values {
		all[value] = name
	}
	return all
}
