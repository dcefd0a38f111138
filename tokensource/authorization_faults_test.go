package tokensource

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func hanging(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// soon is a token, as far away as a network is.
func soon(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(50 * time.Millisecond):
		return madeUp(200, `{"access_token":"at-2"}`), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// Metadata that do not come must leave a token request its time, where it is known
// without them where it goes.
func TestMetadataThatHangKeepNoRenewalFromItsTokenEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		s := newSource(t, i.of())
		first := exchanged(t, s, authorize(t, s, "state"), "code")
		i.does(realmKnown, hanging)
		i.at(realmToken, 503, "") // for a moment
		token, failure := ask(t, s, first)
		mustFail(t, token, failure)
		i.does(realmToken, soon)
		for range 3 {
			if token, failure = ask(t, s, first); failure == nil {
				return
			}
		}
		t.Errorf("no token, again and again: %v", failure)
	})
}

func TestMetadataThatHangKeepNobodyFromAWrittenTokenURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.does(realmKnown, hanging)
		i.does(realmToken, soon)
		s := newSource(t, i.of(credentials, func(c *Config) { c.TokenURL = realmToken }))
		token, failure := ask(t, s, nil)
		must(t, token, failure)
	})
}

// A token remembers how its client has proved itself; the client may be another now.
func TestAClientThatLostItsSecretProvesNothingAlsoWithATokenFromBefore(t *testing.T) {
	t.Parallel()
	i := newIssuer("token_endpoint_auth_methods_supported", `["client_secret_basic"]`)
	s := newSource(t, i.of())
	first := exchanged(t, s, authorize(t, s, "state"), "code")
	i.requests()
	token, failure := ask(t, newSource(t, i.of(public)), first)
	must(t, token, failure)
	if _, _, ok := basic(recorded{header: i.headers[0]}); ok || !strings.Contains(i.bodies[0], "client_id=crm") {
		t.Errorf("it sends %v, %q", i.headers[0], i.bodies[0])
	}
}

func TestNothingWasRevokedWhereTheOnlyTokenIsOfAKindThatCannotBe(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(400, object("error", "unsupported_token_type")))
	if revoked, err := newSource(t, revocable(p)).Revoke(context.Background(), &Token{AccessToken: "at"}); err != nil || revoked {
		t.Errorf("%v, %v", revoked, err)
	}
}

// Scopes are shown to operators, as no token is.
func TestAScopeThatIsATokenIsNotShown(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, `{"access_token":"canary-access-token","refresh_token":"canary-refresh-token","scope":"read canary-access-token canary-refresh-token"}`))
	s := newSource(t, byConsent(p))
	if got := exchanged(t, s, authorize(t, s, "state"), "code").Scopes; !slices.Equal(got, []string{"read"}) {
		t.Errorf("%q", got)
	}
}

// What a terminal takes for a command, or for the other direction.
func TestADeviceAuthorizationThatWouldSteerATerminalIsRefused(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		shown("user_code", `"\u009b2J"`), shown("user_code", `"A\u202eB"`), shown("verification_uri", `"https://x.example/\u009b2J"`),
		shown("verification_uri", `"https://x.example/\u202e"`), shown("verification_uri_complete", `"https://x.example/\u2028"`),
	} {
		p := newProvider(t, reply(200, answer))
		if d, err := newSource(t, byDevice(p)).AuthorizeDevice(context.Background()); err == nil {
			t.Errorf("it is shown: %+q", d.UserCode+" "+d.VerificationURI+" "+d.VerificationURIComplete)
		}
	}
}

func TestACodeBesideAnErrorIsNotPartOfTheError(t *testing.T) {
	t.Parallel()
	const code = "canary-code-7731"
	wantSilent(t, "the answer", (&Authorization{State: "s"}).Check(Callback{
		Code: code, Error: "access_denied", ErrorDescription: "not for " + code, State: "s", Whole: true}), code)
}

// RFC 6749, section 3.1: a parameter stands there once. Which one counts is not for
// us to guess.
func TestAnAnswerThatNamesTwoIssuersOrErrorsIsNotTaken(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{Grant: "authorization_code", ClientID: "c", TokenURL: "https://auth.example.org/token"})
	a := &Authorization{State: "s", Issuer: "https://auth.example.org"}
	for _, answer := range []string{
		"code=c&state=s&iss=https://evil.example&iss=https://auth.example.org", "code=c&state=s&error=access_denied&error=x",
	} {
		if err := a.Check(s.Read(answer)); err == nil {
			t.Errorf("%s: it is taken", answer)
		}
	}
}

// A browser may hide the scheme of what a person copies.
func TestAnAddressWithoutItsSchemeIsAnAnswer(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{Grant: "authorization_code", ClientID: "c", TokenURL: "https://auth.example.org/token"})
	want := Callback{Code: "c", State: "s", Whole: true}
	for _, pasted := range []string{"here.example.org/cb?code=c&state=s", "www.here.example.org/cb?x=y&code=c&state=s#_=_", "127.0.0.1:8085/?code=c&state=s"} {
		if got := s.Read(pasted); got != want {
			t.Errorf("%s: %+v", pasted, got)
		}
	}
}

func TestMetadataWithAByteOrderMarkAreRead(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	i.at(realmKnown, 200, "\xef\xbb\xbf"+published())
	if err := newSource(t, i.of()).Discover(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestMetadataDoNotLeadIntoTheLinkByAnotherSpelling(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"169.254.169.254.", "0.0.0.0.", "127.1", "2130706433", "0x7f000001", "[fe80::1%25eth0]"} {
		i := newIssuer("token_endpoint", `"https://`+host+`/x"`)
		if err := newSource(t, i.of()).Discover(context.Background()); err == nil {
			t.Errorf("%s is taken", host)
		}
	}
}

func TestADeviceURLThatIsWrittenNeedsNoMetadata(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	i.at(realmKnown, 503, "")
	s := newSource(t, i.of(func(c *Config) {
		c.Grant, c.DeviceURL, c.TokenURL, c.ClientAuth = "device_code", realm+"/device", realmToken, "client_secret_post"
	}))
	if _, err := s.AuthorizeDevice(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestConcurrentRequestsAgreeOnMetadata(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	s := newSource(t, i.of())
	first := exchanged(t, s, authorize(t, s, "state"), "code")
	done := make(chan bool)
	for n := range 8 {
		go func() {
			defer func() { done <- true }()
			for range 20 {
				switch n % 4 {
				case 0:
					_, _ = s.Authorize(context.Background(), "state")
				case 1:
					_, _ = s.Obtain(context.Background(), first)
				case 2:
					_, _ = s.Revoke(context.Background(), first)
				default:
					i.at(realmToken, 503, "")
					_, _ = s.Obtain(context.Background(), first)
					i.at(realmToken, 200, `{"access_token":"at"}`)
				}
			}
		}()
	}
	for range 8 {
		<-done
	}
	token, failure := ask(t, s, first)
	if failure != nil {
		token, failure = ask(t, s, first)
	}
	must(t, token, failure)
}
