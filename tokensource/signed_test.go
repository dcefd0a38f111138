package tokensource

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// strict is a desk that takes an assertion only while it holds by its own clock, and
// only once.
func strict(public any, refusal func() *http.Response) *desk {
	d := &desk{}
	seen := make(map[any]bool)
	d.answer = func(_ int, r deskRequest) *http.Response {
		assertion := r.form.Get("assertion") + r.form.Get("client_assertion")
		said, err := verify(assertion, public)
		now := float64(d.now().Unix())
		iat, _ := said.claims["iat"].(float64)
		nbf, _ := said.claims["nbf"].(float64)
		exp, _ := said.claims["exp"].(float64)
		if err != nil || now < iat || now < nbf || now >= exp || exp > now+60 || seen[said.claims["jti"]] {
			return refusal()
		}
		seen[said.claims["jti"]] = true
		return madeUp(200, deskIssued)
	}
	return d
}

// refusing returns answers that say so.
func refusing(status int, code string) func() *http.Response {
	return func() *http.Response { return madeUp(status, object("error", code)) }
}

func TestAProvidersClockThatIsAnotherIsSignedByAfterOneRefusal(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	for _, ahead := range []time.Duration{10 * time.Minute, -10 * time.Minute, 90 * time.Second, -30 * time.Second, 24 * time.Hour} {
		for _, name := range []string{"client_credentials", "jwt_bearer"} {
			for _, refusal := range []func() *http.Response{refusing(401, "invalid_client"), refusing(400, "invalid_grant"), refusing(400, "invalid_request"), refusing(400, "invalid_client_assertion"),
				func() *http.Response { return madeUp(401, "<html>no</html>") }, func() *http.Response { return madeUp(400, `{"message":"expired"}`) }} {
				d := strict(key.Public(), refusal)
				d.ahead = ahead
				s := newSource(t, d.config(toPEM(t, key), grant(name)))
				for i, want := range []int{2, 3, 4} {
					token, failure := ask(t, s, nil)
					must(t, token, failure)
					if n := len(d.arrived()); n != want {
						t.Errorf("%v ahead, %s: %d requests for %d tokens", ahead, name, n, i+1)
					}
				}
				d.mu.Lock() // somebody has set it right
				d.ahead = 0
				d.mu.Unlock()
				token, failure := ask(t, s, nil)
				must(t, token, failure)
				token, failure = ask(t, s, nil)
				must(t, token, failure)
				if n := len(d.arrived()); n != 7 && ahead.Abs() > time.Minute {
					t.Errorf("%v ahead, %s: %d requests for 5 tokens, two of them after the clock was set", ahead, name, n)
				}
			}
		}
	}
}

// TestARefusalThatTheClockDoesNotExplainIsSentOnceMoreAtMost counts requests: a
// login that is wrong must not be tried over and over.
func TestARefusalThatTheClockDoesNotExplainIsSentOnceMoreAtMost(t *testing.T) {
	t.Parallel()
	key := pemKey(t, "P-256")
	for _, test := range []struct {
		name  string
		ahead time.Duration
		reply func() *http.Response
		want  int
	}{
		{"the clocks agree", 0, refusing(401, "invalid_client"), 1},
		{"the clocks agree within a second", time.Second, refusing(401, "invalid_client"), 1},
		{"the clocks do not agree", 10 * time.Minute, refusing(401, "invalid_client"), 2},
		{"a refused scope", 10 * time.Minute, refusing(400, "invalid_scope"), 1},
		{"a grant that it does not know", 10 * time.Minute, refusing(400, "unsupported_grant_type"), 1},
		{"too many requests", 10 * time.Minute, func() *http.Response { return madeUp(429, "") }, 1},
		{"an outage", 10 * time.Minute, func() *http.Response { return madeUp(503, "") }, 1},
		{"a redirect", 10 * time.Minute, func() *http.Response { return madeUp(302, "") }, 1},
	} {
		d := &desk{ahead: test.ahead, answer: func(int, deskRequest) *http.Response { return test.reply() }}
		s := newSource(t, d.config(key))
		token, failure := ask(t, s, nil)
		e := mustFail(t, token, failure)
		if n := len(d.arrived()); n != test.want {
			t.Errorf("%s: %d requests, want %d", test.name, n, test.want)
		}
		if told := strings.Contains(e.Reason, "clock is"); told != (test.ahead > worthTelling) {
			t.Errorf("%s: %q", test.name, e.Reason)
		}
	}
}

// TestAClockThatIsAnotherEachTimeIsFollowedOnce holds that nobody is led on by it.
func TestAClockThatIsAnotherEachTimeIsFollowedOnce(t *testing.T) {
	t.Parallel()
	d := &desk{answer: func(n int, _ deskRequest) *http.Response {
		if n > 20 {
			return madeUp(200, deskIssued)
		}
		resp := refusing(401, "invalid_client")()
		resp.Header.Set("Date", time.Now().Add(time.Duration(n+1)*time.Hour).UTC().Format(http.TimeFormat))
		return resp
	}}
	token, failure := obtain(t, d.config(pemKey(t, "P-256")), nil)
	mustFail(t, token, failure)
	if n := len(d.arrived()); n != 2 {
		t.Errorf("%d requests", n)
	}
}

// TestWhatIsNotSignedIsSentOnce holds that a clock means nothing to a secret.
func TestWhatIsNotSignedIsSentOnce(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"client_secret_basic": func(c *Config) { c.ClientSecret = "secret" },
		"none":                clientAuth("none"),
		"a ready assertion":   func(c *Config) { c.ClientAssertion = "theirs" },
	} {
		d := newDesk(madeUp(401, object("error", "invalid_client")))
		d.ahead = time.Hour
		token, failure := obtain(t, d.config("", change), nil)
		mustFail(t, token, failure)
		if n := len(d.arrived()); n != 1 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

// TestARefreshTokenIsNeverSentAgainAfterItWasRefused holds it whatever the clocks say
// and however the client proves itself: who sends a spent one twice loses the grant.
func TestARefreshTokenIsNeverSentAgainAfterItWasRefused(t *testing.T) {
	t.Parallel()
	key := pemKey(t, "P-256")
	previous := &Token{AccessToken: "at-0", RefreshToken: "rt-0"}
	for name, change := range map[string]func(*Config){
		"private_key_jwt": clientAuth("private_key_jwt"),
		"client_secret_jwt": func(c *Config) {
			c.PrivateKey, c.ClientSecret, c.ClientAuth = "", strings.Repeat("s", 40), "client_secret_jwt"
		},
		"dpop": func(c *Config) { c.PrivateKey, c.DPoP = "", "ES256" },
		"both": func(c *Config) { c.DPoP = "EdDSA" },
	} {
		for _, refusal := range []string{"invalid_grant", "invalid_request", "unauthorized_client", "", "a sentence of its own"} {
			for _, ahead := range []time.Duration{0, 10 * time.Minute, -10 * time.Minute} {
				d := newDesk(madeUp(400, object("error", refusal)))
				d.ahead = ahead
				c := d.config(key, change)
				c.Grant, c.RefreshToken = "refresh_token", "rt-0"
				token, failure := obtain(t, c, nil)
				mustFail(t, token, failure)
				c.Grant, c.RefreshToken = "authorization_code", ""
				token, failure = obtain(t, c, previous)
				mustFail(t, token, failure)
				sent := 0
				for _, r := range d.arrived() {
					sent += len(r.form["refresh_token"])
				}
				if sent != 2 {
					t.Errorf("%s, refused by %q, clock %v ahead: sent %d times for 2 requests", name, refusal, ahead, sent)
				}
			}
		}
	}
}

// TestACodeIsNeverSentAgainAfterItWasRefused holds it of what a person has brought:
// a provider that sees a code twice revokes what it has issued for it (RFC 6749,
// section 4.1.2).
func TestACodeIsNeverSentAgainAfterItWasRefused(t *testing.T) {
	t.Parallel()
	key := pemKey(t, "P-256")
	for _, refusal := range []string{"invalid_grant", "invalid_request", "unauthorized_client", ""} {
		d := newDesk(madeUp(400, object("error", refusal)))
		d.ahead = 10 * time.Minute
		c := d.config(key, grant("authorization_code"), func(c *Config) { c.AuthorizeURL, c.DPoP = "https://auth.example.org/authorize", "ES256" })
		if _, err := newSource(t, c).Exchange(t.Context(), &Authorization{}, "the-code"); err == nil {
			t.Fatal("there is a token")
		}
		if n := len(d.arrived()); n != 1 {
			t.Errorf("refused by %q: the code was sent %d times", refusal, n)
		}
	}
	d := newDesk(madeUp(401, object("error", "invalid_client")), madeUp(200, deskIssued))
	d.ahead = 10 * time.Minute
	c := d.config(key, grant("authorization_code"), func(c *Config) { c.AuthorizeURL = "https://auth.example.org/authorize" })
	if _, err := newSource(t, c).Exchange(t.Context(), &Authorization{}, "the-code"); err != nil {
		t.Errorf("where it is the client that was refused: %v", err)
	}
}

// TestADateIsBelievedOnlyWhereItHelps holds that a proxy with a wrong clock in front
// of a provider with the right one stops nothing.
func TestADateIsBelievedOnlyWhereItHelps(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	d := strict(key.Public(), refusing(401, "invalid_client"))
	answer := d.answer
	d.answer = func(n int, r deskRequest) *http.Response {
		resp := answer(n, r)
		resp.Header.Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		return resp
	}
	s := newSource(t, d.config(toPEM(t, key)))
	for range 3 {
		token, failure := ask(t, s, nil)
		must(t, token, failure)
	}
	if n := len(d.arrived()); n != 3 {
		t.Errorf("%d requests for 3 tokens", n)
	}
	// One refusal for another reason does not put it on the wrong clock for good.
	d.answer = func(int, deskRequest) *http.Response {
		resp := refusing(401, "invalid_client")()
		resp.Header.Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		return resp
	}
	token, failure := ask(t, s, nil)
	mustFail(t, token, failure)
	d.answer = answer
	before := len(d.arrived())
	token, failure = ask(t, s, nil)
	must(t, token, failure)
	if n := len(d.arrived()) - before; n != 1 {
		t.Errorf("%d requests for a token after that", n)
	}
}

func TestAClockOnceKnownOutlivesAnswersThatDoNotSayIt(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	d := strict(key.Public(), refusing(401, "invalid_client"))
	d.ahead = 10 * time.Minute
	s := newSource(t, d.config(toPEM(t, key)))
	token, failure := ask(t, s, nil)
	must(t, token, failure)
	d.mu.Lock()
	d.undated = true
	d.mu.Unlock()
	for range 3 {
		token, failure := ask(t, s, nil)
		must(t, token, failure)
	}
	if n := len(d.arrived()); n != 5 {
		t.Errorf("%d requests for 4 tokens", n)
	}
}

// TestAProviderWithoutADateIsAskedOnce holds that nothing is made of a field that is
// not there, or cannot be read.
func TestAProviderWithoutADateIsAskedOnce(t *testing.T) {
	t.Parallel()
	for _, date := range []string{"", "soon", "0", "2026-01-01T00:00:00Z"} {
		d := &desk{undated: true, answer: func(int, deskRequest) *http.Response {
			resp := refusing(401, "invalid_client")()
			if date != "" {
				resp.Header.Set("Date", date)
			}
			return resp
		}}
		token, failure := obtain(t, d.config(pemKey(t, "P-256")), nil)
		mustFail(t, token, failure)
		if n := len(d.arrived()); n != 1 {
			t.Errorf("Date %q: %d requests", date, n)
		}
	}
}

func TestTheSecondRequestHasAnAssertionOfItsOwn(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	d := newDesk(madeUp(401, object("error", "invalid_client")))
	d.ahead = 10 * time.Minute
	token, failure := obtain(t, d.config(toPEM(t, key)), nil)
	e := mustFail(t, token, failure)
	var ids, issued []string
	for _, r := range d.arrived() {
		said := verified(t, r.form.Get("client_assertion"), key.Public())
		ids, issued = append(ids, fmt.Sprint(said.claims["jti"])), append(issued, fmt.Sprint(said.claims["iat"]))
		silent(t, "a refusal", e, r.form.Get("client_assertion"))
	}
	if len(slices.Compact(ids)) != 2 || len(slices.Compact(issued)) != 2 {
		t.Errorf("jti %q, iat %q", ids, issued)
	}
}
