package caddy_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/canary"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// talkative is a provider that says more than the token, which a test can change.
type talkative struct {
	*provider.Provider
	mu   sync.Mutex // guards also
	also map[string]any
}

func newTalkative(t *testing.T, dialect provider.Dialect) *talkative {
	v := &talkative{also: make(map[string]any)}
	dialect.Write = func(w http.ResponseWriter, token provider.Token) {
		answer := map[string]any{"access_token": token.Access, "expires_in": token.Lifetime.Seconds()}
		if token.Refresh != "" {
			answer["refresh_token"] = token.Refresh
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		for name, value := range v.also {
			answer[name] = value
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}
	v.Provider = provider.New(t, dialect)
	return v
}

func (v *talkative) say(name string, value any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.also[name] = value
}

func TestWhatTheAnswerSaysBesidesGoesWithTheToken(t *testing.T) {
	t.Parallel()
	p := newTalkative(t, provider.Dialect{})
	p.say("tenant", map[string]any{"id": 4711})
	text, url := caddyfile(t, crmSource(p.Provider, "token_response {\n expose tenant tenant.id\n}"), "inject_token crm "+p.API+` {
		header Authorization
		header X-Tenant "tenant {response.tenant}"
		header X-Api-Key {file.{{dir}}/key}
	}`)
	nest := new(canary.Nest)
	key := nest.New("key")
	c := harness.Start(t, text, withSecret(provider.ClientSecret), harness.File("key", key))
	tenant := func() string {
		t.Helper()
		resp, body := harness.Get(t, url)
		if resp.StatusCode != http.StatusOK {
			return fmt.Sprint(resp.StatusCode, " ", body)
		}
		last := p.LastAPIRequest()
		if got := last.Header.Get("X-Api-Key"); got != key {
			t.Errorf("the API got the key %q", got)
		}
		return last.Header.Get("X-Tenant")
	}
	if got := tenant(); got != "tenant 4711" {
		t.Errorf("the API got the tenant %q", got)
	}
	// It comes from the storage as well: nobody is asked.
	c.Stop()
	c = harness.Start(t, text, withSecret(provider.ClientSecret), harness.File("key", key), harness.Env("XDG_DATA_HOME="+c.Dir+"/data"))
	if got := tenant(); got != "tenant 4711" || p.Count() != 1 {
		t.Errorf("after a restart the API got the tenant %q, and there were %d token requests", got, p.Count())
	}
	// A new token has its own.
	p.say("tenant", map[string]any{"id": "acme"})
	harness.Output(t, c.Dir, "token-source", "refresh", "crm", "--address", c.Admin)
	if got := tenant(); got != "tenant acme" {
		t.Errorf("after a renewal the API got the tenant %q", got)
	}
	// A key that is replaced on the disk needs no new token.
	key = nest.New("key")
	c.Write("key", key)
	c.Eventually(20*time.Second, "the new key is sent", func() bool {
		harness.Get(t, url)
		return p.LastAPIRequest().Header.Get("X-Api-Key") == key
	})
	if found := nest.Find(c.Log()); len(found) > 0 {
		t.Errorf("the log has %q", found)
	}
	if strings.Contains(c.Log(), "acme") {
		t.Error("the log has what was exposed")
	}
}

// TestWhatIsMissingBesideATokenStopsRequestsUntilItIsThere has a provider that forgets,
// and one that sends what would be a field of its own.
func TestWhatIsMissingBesideATokenStopsRequestsUntilItIsThere(t *testing.T) {
	t.Parallel()
	for _, first := range []any{nil, "", "4711\r\nX-Injected: 1", strings.Repeat("4", 5000), map[string]any{"id": "4711"}} {
		p := newTalkative(t, provider.Dialect{})
		p.say("tenant", first)
		text, url := caddyfile(t, crmSource(p.Provider, "token_response {\n expose tenant tenant\n}"), "inject_token crm "+p.API+` {
			header Authorization
			header X-Tenant {response.tenant}
		}`)
		var passing string
		text, passing = besides(t, text, "inject_token crm "+p.API+` {
			header Authorization
			header X-Tenant {response.tenant}
			unavailable pass
		}`)
		c := harness.Start(t, text, withSecret(provider.ClientSecret))
		for range 3 {
			resp, body := harness.Get(t, url)
			if resp.StatusCode != http.StatusBadGateway || strings.Count(body, "\n") != 1 || !strings.Contains(body, "the token source crm") {
				t.Errorf("%.20v: answered %d %q", first, resp.StatusCode, body)
			}
		}
		if n := len(p.APIRequests()); n != 0 {
			t.Errorf("%.20v: %d requests were sent", first, n)
		}
		if n := c.LogCount("http.reverse_proxy.transport.inject_token", "requests are not sent, for what is to be injected cannot be had"); n != 1 {
			t.Errorf("%.20v: the log says it %d times", first, n)
		}
		resp, _ := harness.Get(t, passing)
		if last := p.LastAPIRequest(); resp.StatusCode != http.StatusUnauthorized || len(last.Header["Authorization"])+len(last.Header["X-Tenant"]) > 0 {
			t.Errorf("%.20v: passed on as %v", first, last.Header)
		}
		p.say("tenant", "4711")
		harness.Output(t, c.Dir, "token-source", "refresh", "crm", "--address", c.Admin)
		resp, body := harness.Get(t, url)
		if got := p.LastAPIRequest().Header.Get("X-Tenant"); resp.StatusCode != http.StatusOK || got != "4711" {
			t.Errorf("%.20v: with the new token answered %d %q, and the tenant %q", first, resp.StatusCode, body, got)
		}
	}
}

// besides adds a site to a Caddyfile.
func besides(t *testing.T, text, site string) (both, url string) {
	t.Helper()
	address := "http://127.0.0.1:" + itoa(harness.Port(t))
	return text + fmt.Sprintf("%s {\n\tbind 127.0.0.1\n\t%s\n}\n", address, site), address
}

func TestBasicCredentialsThatHoldTheToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{BearerToken: func(r *http.Request) string {
		user, password, _ := r.BasicAuth()
		if user != "robot/token" {
			return ""
		}
		return password
	}})
	text, url := caddyfile(t, crmSource(p, ""), "log {\n output stdout\n}\ninject_token crm "+p.API+" {\n basic robot/token {token}\n}")
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	p.Set(func(k *provider.Knobs) {
		k.Handler = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Echo", r.Header.Get("Authorization"))
			w.Header().Set("X-Echo-Length", itoa(len(r.Header.Get("Authorization"))))
		}
	})
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("caller", "own")
	resp, body := harness.Do(t, req)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("answered %d %s", resp.StatusCode, body)
	}
	token := p.IssuedTokens()[0]
	for _, seen := range []string{resp.Header.Get("X-Echo"), c.Log()} {
		if strings.Contains(seen, token) || strings.Contains(seen, base64.StdEncoding.EncodeToString([]byte("robot/token:" + token))[16:60]) {
			t.Errorf("the token is seen in %.300s", seen)
		}
	}
	if resp.Header.Get("X-Echo-Length") == itoa(len(resp.Header.Get("X-Echo"))) {
		t.Error("nothing was taken out of the echo")
	}
	// A refusal is a refusal.
	p.Revoke()
	if resp, body := harness.Do(t, req); resp.StatusCode != http.StatusOK || p.Count() != 2 {
		t.Errorf("after a revocation answered %d %s, and there were %d token requests", resp.StatusCode, body, p.Count())
	}
}

// TestTwoTokensGoWithOneRequest has an API that wants a second token beside the first.
func TestTwoTokensGoWithOneRequest(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	g := &gate{valid: func(token string) bool {
		one, two, _ := strings.Cut(token, " ")
		return i.owner(one) == "one" && i.valid(one) && i.owner(two) == "two" && i.valid(two)
	}}
	g.next = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "both") }
	api := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", r.Header.Get("Authorization")+" "+r.Header.Get("X-Partner"))
		g.ServeHTTP(w, r)
	}))
	text, url := caddyfile(t, i.source("one")+i.source("two"), "inject_token one "+api+` {
		header Authorization
		header X-Partner {source.two}
	}`)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	ask := func(when string) {
		t.Helper()
		if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK || body != "both" {
			t.Errorf("%s: answered %d %.200s", when, resp.StatusCode, body)
		}
	}
	ask("at first")
	i.revoke("two")
	ask("when the second was revoked")
	harness.Output(t, c.Dir, "token-source", "refresh", "two", "--address", c.Admin)
	i.revoke("one")
	ask("when the first was revoked")
	if err := c.Reload(strings.Replace(text, "{source.two}", "Bearer-{source.two}", 1)); err != nil {
		t.Fatal(err)
	}
	if resp, _ := harness.Get(t, url); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("another format is answered %d", resp.StatusCode)
	}
}
