package caddy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// newCrowdedDesk has three sources: batch, which needs nobody; crm, which
// needs a person; and down, whose provider does not answer.
func newCrowdedDesk(t *testing.T) *desk {
	t.Helper()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Offline = true })
	d := &desk{t: t, provider: p}
	t.Cleanup(d.assertHidden)
	nobody := "http://127.0.0.1:" + itoa(harness.Port(t))
	batch := strings.Replace(crmSource(p, "scope reports"), "source crm", "source batch", 1) + "\n"
	down := fmt.Sprintf("source down {\n grant client_credentials\n token_url %s/token\n client_id a\n}\n", nobody)
	text, url := caddyfile(t, down+personSource(p, "crm", "authorization_code", "revoke_url "+p.RevokeURL())+batch, atCallback(p))
	d.url = url
	d.caddy = harness.Start(t, text, withSecret(provider.ClientSecret))
	d.caddy.Eventually(30*time.Second, "batch has a token, and down has tried", func() bool {
		return p.Count() > 0 && d.caddy.LogCount("token_sources.down", "no token") > 0 && d.caddy.LogCount("token_sources.batch", "token obtained") > 0
	})
	return d
}

func TestTheListIsATableThatAPersonReads(t *testing.T) {
	t.Parallel()
	d := newCrowdedDesk(t)
	for _, how := range []string{"terminal", "pipe"} {
		screen, code := d.run("list")
		if how == "terminal" {
			s := d.terminal("list")
			code, screen = s.ExitCode(), s.Screen()
		}
		if code != 0 {
			t.Fatalf("%s: ended with %d:\n%s", how, code, screen)
		}
		lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
		if len(lines) < 4 {
			t.Fatalf("%s:\n%s", how, screen)
		}
		for i, row := range []string{`(?i)^name\b.*\b(state|status)\b`, `^batch\b.*\bfresh\b`, `^crm\b.*\bneeds_authorization\b`, `^down\b.*\bunavailable\b`} {
			if !regexp.MustCompile(row).MatchString(lines[i]) {
				t.Errorf("%s: line %d is %q, want %s", how, i+1, lines[i], row)
			}
		}
		for _, word := range []string{"caddy token-source authorize crm", "connection refused"} {
			if !strings.Contains(screen, word) {
				t.Errorf("%s: does not say %q:\n%s", how, word, screen)
			}
		}
		state := strings.Index(lines[1], "fresh")
		for _, line := range lines[2:4] {
			if !strings.HasPrefix(line[min(state, len(line)):], "needs_authorization") && !strings.HasPrefix(line[min(state, len(line)):], "unavailable") {
				t.Errorf("%s: the columns do not stand below each other:\n%s", how, screen)
			}
		}
	}
}

func TestProgramsReadTheListAsJSON(t *testing.T) {
	t.Parallel()
	d := newCrowdedDesk(t)
	s := d.pipes("list", "--json")
	if code := s.ExitCode(); code != 0 {
		t.Fatalf("ended with %d", code)
	}
	var list []sourceStatus
	if err := json.Unmarshal([]byte(s.Stdout()), &list); err != nil || len(list) != 3 {
		t.Fatalf("%v: %s", err, s.Stdout())
	}
	batch, crm, down := list[0], list[1], list[2]
	if batch.Name != "batch" || batch.State != "fresh" || !batch.HasToken || batch.Grant != "client_credentials" || batch.Authorize != "" {
		t.Errorf("batch is %+v", batch)
	}
	if crm.Name != "crm" || crm.State != "needs_authorization" || crm.HasToken || crm.Authorize != "caddy token-source authorize crm" || "http://"+crm.Provider != d.provider.URL {
		t.Errorf("crm is %+v", crm)
	}
	if down.Name != "down" || down.State != "unavailable" || down.HasToken || down.Error == nil || !strings.Contains(down.Error.Message, "connection refused") {
		t.Errorf("down is %+v", down)
	}
	var one sourceStatus
	s = d.pipes("show", "crm", "--json")
	if code := s.ExitCode(); code != 0 || json.Unmarshal([]byte(s.Stdout()), &one) != nil || one.Name != "crm" || one.State != "needs_authorization" {
		t.Errorf("show --json ended with %d: %s", code, s.Stdout())
	}
}

func TestOneSourceIsShown(t *testing.T) {
	t.Parallel()
	d := newCrowdedDesk(t)
	output, code := d.run("show", "crm")
	assertSaid(t, output, code, 0, "crm", "needs_authorization", "authorization_code", "caddy token-source authorize crm")
	output, code = d.run("show", "down")
	assertSaid(t, output, code, 0, "down", "unavailable", "connection refused")
	output, code = d.run("show", "batch")
	assertSaid(t, output, code, 0, "batch", "fresh", "client_credentials")
	if strings.Contains(output, "0001-01-01") || strings.Contains(output, "1970") || strings.Contains(output, "<nil>") {
		t.Errorf("what is not known is shown:\n%s", output)
	}
	if strings.Contains(output, "authorize") {
		t.Errorf("a source that needs nobody is to be authorized:\n%s", output)
	}
	s := d.terminal("authorize", "crm")
	s.Type(d.provider.Visit(d.awaitURL(s)).Shown)
	assertEnd(t, s, 0)
	output, code = d.run("show", "crm")
	assertSaid(t, output, code, 0, "crm", "fresh", "read", "write")
}

func TestAPersonRefreshesAToken(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	d.provider.Set(func(k *provider.Knobs) { k.Rotate = true })
	output, code := d.run("refresh", "crm")
	assertSaid(t, output, code, 5, "caddy token-source authorize crm")
	if n := d.provider.Count(); n != 0 {
		t.Errorf("%d token requests for what needs a person", n)
	}
	d.authorize()
	before := d.status().Issued
	output, code = d.run("refresh", "crm")
	assertSaid(t, output, code, 0, "crm")
	if requests := d.provider.Requests(); len(requests) != 2 || requests[1].Form.Get("grant_type") != "refresh_token" || d.status().Issued == before {
		t.Errorf("%d token requests; issued %s before and %s after", len(requests), before, d.status().Issued)
	}

	d.provider.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(http.StatusServiceUnavailable, "") })
	output, code = d.run("refresh", "crm")
	assertSaid(t, output, code, 4, "503")
	d.assertServed() // by the token that is there

	d.provider.Set(func(k *provider.Knobs) { k.Intercept = nil })
	d.provider.RevokeRefreshTokens()
	output, code = d.run("refresh", "crm")
	assertSaid(t, output, code, 5, "invalid_grant", "caddy token-source authorize crm")
	d.assertServed() // its time is not over
	d.authorize()
	if s := d.status(); s.State != "fresh" {
		t.Errorf("authorized again, it is %s", s.State)
	}
}

func TestAPersonRefreshesWhatNeedsNobody(t *testing.T) {
	t.Parallel()
	d := newCrowdedDesk(t)
	before := d.provider.Count()
	output, code := d.run("refresh", "batch")
	assertSaid(t, output, code, 0, "batch")
	if n := d.provider.Count(); n != before+1 {
		t.Errorf("%d token requests", n-before)
	}
	output, code = d.run("refresh", "down")
	assertSaid(t, output, code, 4, "connection refused")
	output, code = d.run("authorize", "batch")
	assertSaid(t, output, code, 1, "client_credentials")
}

func TestAGrantIsRevokedAtTheProviderAndForgotten(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback+"\n revoke_url REVOKE")
	d.authorize()
	refresh, access := d.tokens()
	if !d.storedAnywhere(refresh) {
		t.Fatal("the refresh token does not stand in the storage, so that nothing is seen of its end")
	}
	output, code := d.run("revoke", "crm")
	assertSaid(t, output, code, 0, "revoked", "crm")
	seen := d.provider.Revocations()
	if len(seen) == 0 || seen[0].Token != refresh || seen[0].Status != http.StatusOK {
		t.Errorf("the provider saw %d revocations, and the first is not of the refresh token", len(seen))
	}
	if d.provider.Valid(access) {
		t.Error("the access token is valid at the provider")
	}
	d.assertNeedsPerson()
	if d.storedAnywhere(refresh) || d.storedAnywhere(access) {
		t.Error("a token stands in the storage")
	}
	output, code = d.run("refresh", "crm")
	assertSaid(t, output, code, 5, "caddy token-source authorize crm")
	d.authorize()
	d.assertServed()
	d.provider.AssertStrict()
}

func TestWithoutARevocationEndpointAGrantIsForgottenAlone(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	d.authorize()
	refresh, access := d.tokens()
	output, code := d.run("revoke", "crm")
	assertSaid(t, output, code, 0, "forgotten", "not revoked", "revoke_url")
	d.assertNeedsPerson()
	if d.storedAnywhere(refresh) || d.storedAnywhere(access) {
		t.Error("a token stands in the storage")
	}
}

func TestWithoutATokenThereIsNothingToRevoke(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback+"\n revoke_url REVOKE")
	output, code := d.run("revoke", "crm")
	assertSaid(t, output, code, 1, "no token")
	if n := len(d.provider.Revocations()); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
	d.assertNeedsPerson()
}

func TestWhatCouldNotBeRevokedIsNotForgotten(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback+"\n revoke_url REVOKE")
	d.provider.Set(func(k *provider.Knobs) { k.RevokeStatus = http.StatusServiceUnavailable })
	d.authorize()
	refresh, _ := d.tokens()
	output, code := d.run("revoke", "crm")
	assertSaid(t, output, code, 4, "503")
	if !d.storedAnywhere(refresh) || d.status().State != "fresh" {
		t.Errorf("the storage has the refresh token: %v; the state is %s", d.storedAnywhere(refresh), d.status().State)
	}
	d.assertServed()
	d.provider.Set(func(k *provider.Knobs) { k.RevokeStatus = 0 })
	output, code = d.run("revoke", "crm")
	assertSaid(t, output, code, 0, "revoked")
	d.assertNeedsPerson()
}

// tokens returns the newest tokens: those that the storage holds.
func (d *desk) tokens() (refresh, access string) {
	d.t.Helper()
	for _, token := range d.provider.IssuedTokens() {
		if strings.HasPrefix(token, "refresh-") {
			refresh = token
		} else {
			access = token
		}
	}
	if refresh == "" || access == "" || len(d.provider.IssuedTokens()) != 2 {
		d.t.Fatalf("the provider has issued %q", d.provider.IssuedTokens())
	}
	return refresh, access
}

func TestAWrongNameIsCorrected(t *testing.T) {
	t.Parallel()
	d := newCrowdedDesk(t)
	for _, command := range []string{"show", "authorize", "refresh", "revoke"} {
		output, code := d.run(command, "bacth")
		assertSaid(t, output, code, 1, "bacth", "did you mean", "batch")
		output, code = d.run(command, "xyzzy")
		assertSaid(t, output, code, 1, "xyzzy")
		if strings.Contains(strings.ToLower(output), "did you mean") {
			t.Errorf("%s: something is meant that is nothing like it:\n%s", command, output)
		}
		for _, hostile := range []string{"../config", "crm/refresh", "%2e%2e", "crm?x=1", "crm#x", "", "crm\nx"} {
			if output, code := d.run(command, hostile); code != 1 {
				t.Errorf("%s %q ended with %d:\n%s", command, hostile, code, output)
			}
		}
	}
	if resp, body := harness.Get(t, d.url+"/data"); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("after all that a caller is answered %d %s", resp.StatusCode, body)
	}
	for _, line := range d.caddy.LogLines() {
		if line["logger"] == "admin.api" && line["msg"] == "received request" && line["method"] != http.MethodGet {
			if uri := fmt.Sprint(line["uri"]); !strings.HasPrefix(uri, "/token_sources/") {
				t.Errorf("a name led to %s %s", line["method"], uri)
			}
		}
	}
}
