package caddy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// twoSteps is a provider that issues a token for that of another one, which it looks
// for in a header field.
type twoSteps struct{ first, second *provider.Provider }

func newTwoSteps(t *testing.T) twoSteps {
	first := provider.New(t, provider.Dialect{})
	second := provider.New(t, provider.Dialect{Authorize: func(_ *provider.Provider, r *provider.TokenRequest) string {
		session, _ := strings.CutPrefix(r.Header.Get("X-Session"), "Session ")
		if !first.Valid(session) || r.Form.Get("again") != session {
			return "invalid_grant"
		}
		return ""
	}})
	return twoSteps{first, second}
}

// sources are both, the one that comes second first.
func (s twoSteps) sources() string {
	return fmt.Sprintf(`source api {
		grant custom
		token_url %s
		param again {source.login}
		token_request {
			header X-Session "Session {source.login}"
		}
	}
	source login {
		grant client_credentials
		token_url %s
		client_id %s
		client_secret {file.{{dir}}/secret}
	}`, s.second.TokenURL(), s.first.TokenURL(), provider.ClientID)
}

func TestALoginInTwoStepsIsTwoSources(t *testing.T) {
	t.Parallel()
	s := newTwoSteps(t)
	text, url := caddyfile(t, s.sources(), "inject_token api "+s.second.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	get := func() int {
		resp, _ := harness.Get(t, url)
		return resp.StatusCode
	}
	if got := get(); got != http.StatusOK {
		t.Fatalf("answered %d", got)
	}
	if one, two := s.first.Count(), s.second.Count(); one != 1 || two != 1 {
		t.Errorf("there were %d and %d token requests", one, two)
	}
	// The first token ends before its time, and so does the second: one request of a
	// caller has both renewed.
	s.first.Revoke()
	s.second.Revoke()
	if got := get(); got != http.StatusOK {
		t.Errorf("after both were revoked answered %d", got)
	}
	if one, two := s.first.Count(), s.second.Count(); one != 2 || two != 3 {
		t.Errorf("there were %d and %d token requests", one, two)
	}
	// A new first token is no reason to ask for another second one.
	harness.Output(t, c.Dir, "token-source", "refresh", "login", "--address", c.Admin)
	if got := get(); got != http.StatusOK || s.second.Count() != 3 {
		t.Errorf("answered %d after %d token requests", got, s.second.Count())
	}
	for _, token := range append(s.first.IssuedTokens(), s.second.IssuedTokens()...) {
		if strings.Contains(c.Log(), token) {
			t.Error("a token is in the log")
		}
	}
}

func TestTheSecondStepWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	s := newTwoSteps(t)
	s.first.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(http.StatusServiceUnavailable, "") })
	text, url := caddyfile(t, s.sources(), "inject_token api "+s.second.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.WaitLog("the token source login has no token")
	if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("answered %d %s", resp.StatusCode, body)
	}
	if s.second.Count() != 0 {
		t.Error("the second was asked without the token of the first")
	}
	s.first.Set(func(k *provider.Knobs) { k.Intercept = nil })
	c.Eventually(time.Minute, "it serves when the first is back", func() bool {
		resp, _ := harness.Get(t, url)
		return resp.StatusCode == http.StatusOK
	})
}

func TestTheSecondStepFollowsTheFirstToAnotherAccount(t *testing.T) {
	t.Parallel()
	s := newTwoSteps(t)
	text, url := caddyfile(t, s.sources(), "inject_token api "+s.second.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	harness.Get(t, url)
	// A comment changes nothing.
	if err := c.Reload(text + "# \n"); err != nil {
		t.Fatal(err)
	}
	harness.Get(t, url)
	if n := s.second.Count(); n != 1 {
		t.Errorf("%d token requests", n)
	}
	if err := c.Reload(strings.Replace(text, "client_secret {file", "scope other\nclient_secret {file", 1)); err != nil {
		t.Fatal(err)
	}
	c.Eventually(time.Minute, "both were asked anew", func() bool {
		resp, _ := harness.Get(t, url)
		return resp.StatusCode == http.StatusOK && s.first.Count() == 2 && s.second.Count() == 2
	})
}

func TestCheckObtainsTheTokenThatAnotherSends(t *testing.T) {
	t.Parallel()
	s := newTwoSteps(t)
	c := newChecked(t)
	c.caddyfile(s.sources() + "\n")
	out, code := c.check()
	if code != 0 || strings.Count(out, ": ok, a token") != 2 || s.first.Count() != 1 {
		t.Errorf("%d, after %d token requests of the first: %s", code, s.first.Count(), out)
	}
	s.first.Set(func(k *provider.Knobs) { k.Secret = "another" })
	if out, code := c.check("api"); code != 4 || !strings.Contains(out, "the token source login has no token") {
		t.Errorf("%d: %s", code, out)
	}
	seeded := strings.Replace(strings.Replace(s.sources(), "client_credentials", "refresh_token", 1), "client_secret", "refresh_token {file.{{dir}}/secret}\nclient_secret", 1)
	c.caddyfile(seeded + "\n")
	if out, code := c.check("api"); code != 0 || !strings.Contains(out, "api: not asked, for it sends the token of login, which is not asked") {
		t.Errorf("%d: %s", code, out)
	}
}
