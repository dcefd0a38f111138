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
)

// introspectingAPI is an API that asks fosite about every token it gets (RFC
// 7662).
type introspectingAPI struct {
	*httptest.Server
	mu     sync.Mutex // guards tokens
	tokens []string   // that were active
}

func newIntrospectingAPI(t *testing.T, server string) *introspectingAPI {
	api := new(introspectingAPI)
	api.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !bearer {
			http.Error(w, "no bearer token", http.StatusUnauthorized)
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "http://"+server+"/oauth2/introspect",
			strings.NewReader(url.Values{"token": {token}}.Encode()))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth("my-client", "foobar")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		var answer struct {
			Active bool   `json:"active"`
			Scope  string `json:"scope"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || !answer.Active {
			http.Error(w, "not active", http.StatusUnauthorized)
			return
		}
		api.mu.Lock()
		defer api.mu.Unlock()
		api.tokens = append(api.tokens, token)
		fmt.Fprintf(w, "active with scope %s", answer.Scope)
	}))
	t.Cleanup(api.Close)
	return api
}

// distinct returns how many different tokens were active.
func (a *introspectingAPI) distinct() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	different := make(map[string]bool)
	for _, token := range a.tokens {
		different[token] = true
	}
	return len(different)
}

func TestFositeFindsItsTokensActiveAtTheAPI(t *testing.T) {
	for name, options := range map[string]string{
		"client_credentials by basic": "grant client_credentials",
		"client_credentials by post":  "grant client_credentials\n client_auth client_secret_post",
		"password, refreshed":         "grant password\n username peter\n password secret",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := harness.StartServer(t, "fosite", "-lifetime", "3s")
			api := newIntrospectingAPI(t, server)
			text, address := caddyfile(t, fmt.Sprintf(`source fosite {
				%s
				token_url http://%s/oauth2/token
				client_id my-client
				client_secret {file.{{dir}}/secret}
				scope fosite offline
			}`, options, server), "inject_token fosite "+api.URL)
			c := harness.Start(t, text, withSecret("foobar"))
			var overtaken int
			c.Eventually(60*time.Second, "three tokens have been used, one after the other", func() bool {
				resp, body := harness.Get(t, address)
				if resp.StatusCode == http.StatusUnauthorized && strings.Contains(options, "password") {
					// A refresh ends the access token before it at once, also
					// for a request that is on its way with it.
					overtaken++
					return false
				}
				if resp.StatusCode != http.StatusOK || body != "active with scope fosite offline" {
					t.Fatalf("answered %d %q", resp.StatusCode, body)
				}
				return api.distinct() >= 3
			})
			if renewals := c.LogCount("token_sources.fosite", "token renewed"); overtaken > renewals {
				t.Errorf("%d requests were refused with %d renewals", overtaken, renewals)
			}
			// A refresh token that was spent twice, or an expired access token,
			// would stand in the log as a failure.
			for _, line := range c.LogLines() {
				if line["logger"] == "token_sources.fosite" && line["level"] != "info" && line["level"] != "debug" {
					t.Errorf("the log says: %v", line)
				}
			}
		})
	}
}

// sentRequest is a token request as it came to a real server.
type sentRequest struct {
	grant, refreshToken string
	basic, post         bool
	status              int
}

// tokenRecorder stands before the token endpoint of a real server.
type tokenRecorder struct {
	*httptest.Server
	mu       sync.Mutex // guards requests
	requests []sentRequest
}

func newTokenRecorder(t *testing.T, server string) *tokenRecorder {
	rec := new(tokenRecorder)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server})
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		form, _ := url.ParseQuery(string(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		_, _, basic := r.BasicAuth()
		answer := &tokenStatus{ResponseWriter: w, status: http.StatusOK}
		proxy.ServeHTTP(answer, r)
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.requests = append(rec.requests, sentRequest{form.Get("grant_type"), form.Get("refresh_token"), basic, form.Has("client_secret"), answer.status})
	}))
	t.Cleanup(rec.Close)
	return rec
}

func (r *tokenRecorder) all() []sentRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

type tokenStatus struct {
	http.ResponseWriter
	status int
}

func (w *tokenStatus) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func TestGoOAuth2RotatesItsRefreshTokens(t *testing.T) {
	for name, c := range map[string]struct {
		options, first, then string
		post                 bool
	}{
		"client_credentials by basic": {"grant client_credentials", "client_credentials", "client_credentials", false},
		"client_credentials by post":  {"grant client_credentials\n client_auth client_secret_post", "client_credentials", "client_credentials", true},
		"password, refreshed":         {"grant password\n username peter\n password secret", "password", "refresh_token", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := harness.StartServer(t, "gooauth2", "-lifetime", "3s")
			rec := newTokenRecorder(t, server)
			text, address := caddyfile(t, fmt.Sprintf(`source go {
				%s
				token_url %s/token
				client_id 000000
				client_secret {file.{{dir}}/secret}
			}`, c.options, rec.URL), "inject_token go http://"+server)
			caddy := harness.Start(t, text, withSecret("999999"))
			caddy.Eventually(60*time.Second, "the token has been renewed twice", func() bool {
				resp, body := harness.Get(t, address+"/check")
				if resp.StatusCode != http.StatusOK && (c.then != "refresh_token" || resp.StatusCode != http.StatusUnauthorized) {
					t.Fatalf("answered %d %q", resp.StatusCode, body)
				}
				return caddy.LogCount("token_sources.go", "token renewed") >= 2
			})
			spent := make(map[string]bool)
			for i, request := range rec.all() {
				want := c.then
				if i == 0 {
					want = c.first
				}
				if request.grant != want || request.status != http.StatusOK {
					t.Errorf("request %d was by the grant %s and answered %d; it was to be by %s", i, request.grant, request.status, want)
				}
				if request.basic == c.post || request.post != c.post {
					t.Errorf("request %d: by basic %v, by post %v", i, request.basic, request.post)
				}
				if request.refreshToken != "" && spent[request.refreshToken] {
					t.Errorf("request %d spent a refresh token again", i)
				}
				spent[request.refreshToken] = true
			}
		})
	}
}

func TestRealServersRefuseAWrongSecret(t *testing.T) {
	for server, path := range map[string]string{"fosite": "/oauth2/token", "gooauth2": "/token"} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			host := harness.StartServer(t, server)
			text, address := caddyfile(t, fmt.Sprintf(`source real {
				grant client_credentials
				token_url http://%s%s
				client_id %s
				client_secret {file.{{dir}}/secret}
			}`, host, path, map[string]string{"fosite": "my-client", "gooauth2": "000000"}[server]), "inject_token real http://127.0.0.1:9")
			c := harness.Start(t, text, withSecret("not-the-secret"))
			c.WaitLog("not tried again")
			resp, _ := harness.Get(t, address)
			if resp.StatusCode != http.StatusBadGateway || !strings.Contains(resp.Header.Get("Proxy-Status"), `details="invalid_client"`) {
				t.Errorf("answered %d with Proxy-Status %q", resp.StatusCode, resp.Header.Get("Proxy-Status"))
			}
			for range 20 {
				harness.Get(t, address)
			}
			if n := c.LogCount("token_sources.real", "no token"); n != 1 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}
