package caddy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

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
