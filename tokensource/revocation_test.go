package tokensource

import (
	"context"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// revocable is a source whose provider takes tokens back.
func revocable(p *provider) Config {
	c := byConsent(p)
	c.RevokeURL = p.URL + "/revoke"
	return c
}

var bothTokens = &Token{AccessToken: "canary-access-token", RefreshToken: "canary-refresh-token"}

// hints returns which tokens were given back, in order.
func (p *provider) hints(t testing.TB) (hints []string) {
	for _, r := range p.arrived() {
		hints = append(hints, r.values(t).Get("token_type_hint"))
	}
	return hints
}

func TestBothTokensAreGivenBackAndTheRefreshTokenFirst(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{}", "ok", "<html>"} {
		p := newProvider(t, reply(200, body))
		c := revocable(p)
		c.Params = []Param{param("audience", "x")}
		c.TokenRequest = Request{Method: "GET", Header: []Header{{Name: "X-Api-Version", Value: "2"}}}
		revoked, err := newSource(t, c).Revoke(context.Background(), bothTokens)
		if err != nil || !revoked {
			t.Fatalf("%q: %v, %v", body, revoked, err)
		}
		want := []url.Values{
			{"token": {"canary-refresh-token"}, "token_type_hint": {"refresh_token"}}, {"token": {"canary-access-token"}, "token_type_hint": {"access_token"}},
		}
		got := p.arrived()
		if len(got) != len(want) {
			t.Fatalf("%d requests", len(got))
		}
		for i, r := range got {
			if r.method != "POST" || r.target != "/revoke" || !reflect.DeepEqual(r.values(t), want[i]) || r.header.Get("X-Api-Version") != "2" {
				t.Errorf("%s %s %v", r.method, r.target, r.values(t))
			}
			if _, secret, ok := basic(r); !ok || secret != "canary-client-secret-of-32-bytes-and-more" {
				t.Error("the client does not prove itself")
			}
		}
	}
}

func TestWithoutARefreshTokenTheAccessTokenIsGivenBack(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(204, ""))
	c := revocable(p)
	c.ClientSecret = ""
	revoked, err := newSource(t, c).Revoke(context.Background(), &Token{AccessToken: "at"})
	if err != nil || !revoked || !slices.Equal(p.hints(t), []string{"access_token"}) {
		t.Errorf("%v, %v, %q", revoked, err, p.hints(t))
	}
	if got := p.only(t).values(t).Get("client_id"); got != "crm app" {
		t.Errorf("the client is %q", got)
	}
}

func TestWithoutAnEndpointNothingIsGivenBackAndThatIsNoError(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, ""))
	s := newSource(t, byConsent(p))
	if revoked, err := s.Revoke(context.Background(), bothTokens); err != nil || revoked || s.CanRevoke() || len(p.arrived()) != 0 {
		t.Errorf("%v, %v, %v", revoked, err, s.CanRevoke())
	}
	if !newSource(t, revocable(p)).CanRevoke() {
		t.Error("with one it cannot")
	}
}

func TestAnAccessTokenThatCannotBeGivenBackEndsByItself(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, ""), reply(400, object("error", "unsupported_token_type")))
	if revoked, err := newSource(t, revocable(p)).Revoke(context.Background(), bothTokens); err != nil || !revoked {
		t.Errorf("%v, %v", revoked, err)
	}
	p = newProvider(t, reply(400, object("error", "unsupported_token_type")), reply(200, ""))
	revoked, err := newSource(t, revocable(p)).Revoke(context.Background(), bothTokens)
	if e := failureOf(t, err); revoked || e.Code != "unsupported_token_type" {
		t.Errorf("a refresh token: %v, %v", revoked, err)
	}
}

func TestARevocationThatFailsIsTheFirstErrorAndBothAreTried(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"down":                {503, "", "HTTP status 503"},
		"the client is wrong": {401, object("error", "invalid_client", "error_description", "who?"), "invalid_client: who?"},
		"a page":              {404, "<html>", "HTTP status 404"},
		"a redirect":          {302, "", "redirect"},
	} {
		p := newProvider(t, reply(c.status, c.body, "Location", "https://elsewhere.example.org/"), reply(200, ""))
		revoked, err := newSource(t, revocable(p)).Revoke(context.Background(), bothTokens)
		if e := failureOf(t, err); revoked || !strings.Contains(e.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, revoked, e)
		}
		if got := p.hints(t); !slices.Equal(got, []string{"refresh_token", "access_token"}) {
			t.Errorf("%s: tried %q", name, got)
		}
	}
	p := newProvider(t, reply(200, ""), reply(500, object("error", "server_error")))
	if revoked, err := newSource(t, revocable(p)).Revoke(context.Background(), bothTokens); revoked || failureOf(t, err).Code != "server_error" {
		t.Errorf("the second alone: %v, %v", revoked, err)
	}
}
