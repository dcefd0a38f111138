package caddy_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// newPIN is AffinityLive as an installed application uses it: the person reads
// a PIN off its page. /q/ sends the token as a parameter.
func newPIN(t *testing.T, clientAuth string) *consent {
	t.Helper()
	p := provider.New(t, provider.AffinityLive)
	p.Set(func(k *provider.Knobs) { k.Rotate, k.Families = true, true })
	return &consent{t: t, p: p, port: harness.Port(t), told: new(told), redirectURI: "-",
		endpoints: "authorize_url " + p.AuthorizePINURL() + "\n token_url " + p.TokenURL(),
		options:   "scope_separator ,\n pkce off\n code_field 3 ;\n " + clientAuth,
		landing:   fmt.Sprintf("handle_path /q/* {\n inject_token crm %s {\n query _bearer_token\n }\n}", p.API)}
}

// withPINScope is the Caddyfile with the scopes of the document.
func (a *consent) withPINScope() *consent {
	a.scope = "read(all) write(companies,contacts)"
	return a
}

// TestAPINAuthorizesAsTheProvidersDocumentHasIt goes the whole way of
// AffinityLive's document, by each of the two ways to send the client's
// credentials, with the PIN and with the QR text.
func TestAPINAuthorizesAsTheProvidersDocumentHasIt(t *testing.T) {
	t.Parallel()
	for name, clientAuth := range map[string]string{"Basic": "", "the query": "client_auth client_secret_query"} {
		for what, pasted := range map[string]func(pin, qr string) string{
			"the PIN":             func(pin, _ string) string { return pin },
			"the QR text":         func(_, qr string) string { return qr },
			"with a line's end":   func(_, qr string) string { return " " + qr + "\r\n" },
			"the PIN with blanks": func(pin, _ string) string { return "  " + pin + " " },
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				a := newPIN(t, clientAuth).withPINScope().start()
				a.assertNeedsPerson("in the beginning")
				begun := a.begin()
				a.assertPINAddress(begun)
				pin, qr := provider.ReadPIN(t, begun.URL)
				got, result := a.complete(begun.ID, pasted(pin, qr))
				if got.status != http.StatusOK || result.Status != "granted" {
					t.Fatalf("completed: %d %s", got.status, got.body)
				}
				a.assertServesBothWays("after the PIN")
				a.assertPINRequest(a.p.Requests()[0], pin, clientAuth != "")
				a.assertAsked("for a PIN", 1)
				a.p.AssertStrict()
			})
		}
	}
}

// assertPINAddress wants the address that the document describes, and nothing
// beside.
func (a *consent) assertPINAddress(begun consentRequest) {
	a.t.Helper()
	address, params, _ := strings.Cut(begun.URL, "?")
	got, err := url.ParseQuery(params)
	want := url.Values{"client_id": {provider.ClientID}, "response_type": {"code"}, "scope": {"read(all),write(companies,contacts)"}}
	if err != nil || address != a.p.AuthorizePINURL() || got.Encode() != want.Encode() {
		a.t.Errorf("the authorization URL is %s", begun.URL)
	}
	if begun.RedirectURI != "" || begun.UserCode != "" {
		a.t.Errorf("begun: %+v", begun)
	}
}

// assertPINRequest wants the token request that the document describes.
func (a *consent) assertPINRequest(r *provider.TokenRequest, pin string, byQuery bool) {
	a.t.Helper()
	want := url.Values{"grant_type": {"authorization_code"}, "code": {pin}}
	if r.Form.Encode() != want.Encode() || r.Basic == byQuery || (r.URL.RawQuery != "") != byQuery {
		a.t.Errorf("the token request: %s %s %s, Basic: %v", r.Method, r.URL.String(), r.Body, r.Basic)
	}
}

// assertServesBothWays wants the token in the header, and as a parameter.
func (a *consent) assertServesBothWays(when string) {
	a.t.Helper()
	a.assertServes(when)
	if seen := a.p.LastAPIRequest(); !strings.HasPrefix(seen.Header.Get("Authorization"), "Bearer access-") || seen.URL.RawQuery != "" {
		a.t.Errorf("%s the API got %s with Authorization %q", when, seen.URL.String(), seen.Header["Authorization"])
	}
	got := tryToAsk(a.url() + "/q/y?a=%20b")
	if got.status != http.StatusOK {
		a.t.Errorf("%s a caller by query got %d %q", when, got.status, got.body)
		return
	}
	if seen := a.p.LastAPIRequest(); !strings.HasPrefix(seen.URL.RawQuery, "a=%20b&_bearer_token=access-") || seen.Header["Authorization"] != nil {
		a.t.Errorf("%s the API got %s with Authorization %q", when, seen.URL.String(), seen.Header["Authorization"])
	}
}

// TestAPINsGrantIsRefreshedAndSurvivesARestart renews by the refresh token that
// came with the PIN, restarts Caddy and renews again.
func TestAPINsGrantIsRefreshedAndSurvivesARestart(t *testing.T) {
	t.Parallel()
	for name, clientAuth := range map[string]string{"Basic": "", "the query": "client_auth client_secret_query"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newPIN(t, clientAuth).withPINScope().start()
			begun := a.begin()
			_, qr := provider.ReadPIN(t, begun.URL)
			if got, result := a.complete("", qr); result.Status != "granted" {
				t.Fatalf("completed without an id, where one is pending: %d %s", got.status, got.body)
			}
			a.assertServesBothWays("after the PIN")

			if got := a.admin(http.MethodPost, "/token_sources/crm/refresh", ""); got.status != http.StatusOK {
				t.Fatalf("refreshed: %d %s", got.status, got.body)
			}
			a.assertAsked("after a refresh", 2)
			a.p.Revoke()
			a.assertServesBothWays("after a token was revoked")
			a.assertAsked("after a revoked token", 3)

			a.c.Stop()
			a.again()
			a.c.Eventually(20*time.Second, "it serves after a restart", a.serves)
			a.assertServesBothWays("after a restart")
			a.assertAsked("after a restart", 3)
			a.p.Revoke()
			a.assertServesBothWays("after a token was revoked once more")
			for _, r := range a.p.Requests()[1:] {
				if r.Form.Get("grant_type") != "refresh_token" || len(r.Form) != 2 || r.Basic != (clientAuth == "") {
					t.Errorf("renewed by %s %s, Basic: %v", r.URL.String(), r.Body, r.Basic)
				}
			}
			if n := a.p.Reused(); n > 0 {
				t.Errorf("%d refresh tokens were spent twice", n)
			}
			a.p.AssertStrict()
		})
	}
}

// TestAWrongPINIsAnErrorAndNotTriedForEver pastes PINs that are none: the
// provider's word is told, the right one is taken afterwards, and the fifth wrong
// one is the last.
func TestAWrongPINIsAnErrorAndNotTriedForEver(t *testing.T) {
	t.Parallel()
	a := newPIN(t, "").withPINScope().start()

	begun := a.begin()
	pin, qr := provider.ReadPIN(t, begun.URL)
	got, _ := a.complete(begun.ID, "WRONG123")
	if got.status != http.StatusBadGateway || !strings.Contains(got.body, "invalid_grant") {
		t.Errorf("a wrong PIN: %d %s", got.status, got.body)
	}
	for _, text := range []string{"", " ", ";;", "hq;peter;", "hq;peter", "\x00", strings.Repeat("9", 100_000)} {
		if got, _ := a.complete(begun.ID, text); got.status != http.StatusBadRequest {
			t.Errorf("%.40q: %d %.200s", text, got.status, got.body)
		}
	}
	a.assertAsked("after one wrong PIN and many texts that are none", 1)
	if got, result := a.complete(begun.ID, qr); result.Status != "granted" {
		t.Fatalf("the right one after a wrong one: %d %s", got.status, got.body)
	}
	if got, _ := a.complete(begun.ID, pin); got.status != http.StatusConflict {
		t.Errorf("a PIN that was used: %d %s", got.status, got.body)
	}
	a.assertServes("after the right PIN")

	begun = a.begin()
	before := a.p.Count()
	pin, _ = provider.ReadPIN(t, begun.URL)
	for i := range 5 {
		if got, _ := a.complete(begun.ID, "WRONG12"+itoa(i)); got.status != http.StatusBadGateway {
			t.Errorf("the wrong PIN %d: %d %s", i, got.status, got.body)
		}
	}
	if got, _ := a.complete(begun.ID, pin); got.status != http.StatusConflict {
		t.Errorf("the right PIN after five wrong ones: %d %s", got.status, got.body)
	}
	a.assertAsked("after five wrong PINs", before+5)
	a.assertServes("after an authorization that failed, with the token of the last one,")
}

// TestTheRecipeWithThePINIsEnough runs what the README has for AffinityLive.
func TestTheRecipeWithThePINIsEnough(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.AffinityLive)
	r := recipe{
		heading: "### AffinityLive (Accelo)", dialect: provider.AffinityLive, hosts: "https://hq.affinitylive.example",
		replace: []string{p.API + "/oauth2/v0/authorize", p.AuthorizePINURL(), "34ad67fa2f@hq.affinitylive.example", provider.ClientID},
	}
	started, address := r.start(t, p, "")
	c := &personCaddy{started, t}
	var begun personAuthorization
	if status, text := c.ask(http.MethodPost, "/token_sources/affinitylive/authorize", nil, &begun); status != http.StatusOK {
		t.Fatalf("beginning answered %d %s", status, text)
	}
	_, qr := provider.ReadPIN(t, begun.AuthorizationURL)
	if status, text := c.ask(http.MethodPost, "/token_sources/affinitylive/complete", map[string]string{"code": qr}, nil); status != http.StatusOK {
		t.Fatalf("the text of the QR code answered %d %s", status, text)
	}
	if got := tryToAsk(address + "/x"); got.status != http.StatusOK {
		t.Errorf("a request answered %d %s", got.status, got.body)
	}
	p.AssertStrict()
}
