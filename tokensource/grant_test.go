package tokensource

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// withRefresh is a token whose access token has ended.
func withRefresh(token string) *Token { return &Token{AccessToken: "at-0", RefreshToken: token} }

// grantTypes returns what was asked for with, in order.
func (p *provider) grantTypes(t testing.TB) (names []string) {
	t.Helper()
	for _, r := range p.arrived() {
		names = append(names, r.values(t).Get("grant_type"))
	}
	return names
}

func (p *provider) refreshTokens(t testing.TB) (tokens []string) {
	t.Helper()
	for _, r := range p.arrived() {
		tokens = append(tokens, r.values(t).Get("refresh_token"))
	}
	return tokens
}

func TestARefreshTokenIsUsedAndKeptUntilAnotherComes(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*Config){func(*Config) {}, login} {
		p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", ""), issue("at-3", "rt-3"), issue("at-4", ""))
		c := client(p)
		change(&c)
		s := newSource(t, c)
		var token *Token
		for i, want := range []string{"rt-1", "rt-1", "rt-3", "rt-3"} {
			next, failure := ask(t, s, token)
			token = must(t, next, failure)
			if token.RefreshToken != want || token.AccessToken != "at-"+string(rune('1'+i)) {
				t.Errorf("request %d: got %s with %s, want %s", i, token.AccessToken, token.RefreshToken, want)
			}
		}
		if got, want := p.refreshTokens(t), []string{"", "rt-1", "rt-1", "rt-3"}; !slices.Equal(got, want) {
			t.Errorf("sent the refresh tokens %q, want %q", got, want)
		}
		if got := p.grantTypes(t); got[0] != c.Grant || got[3] != "refresh_token" {
			t.Errorf("asked with %q", got)
		}
	}
}

func TestATokenSaysWhenItWasIssuedAndHowLongItLasts(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, `{"access_token":"a","expires_in":60}`), reply(200, `{"access_token":"b"}`))
	c := client(p)
	c.DefaultLifetime = time.Hour
	s := newSource(t, c)
	before := time.Now()
	token, failure := ask(t, s, nil)
	first := must(t, token, failure)
	if first.Lifetime != time.Minute || first.Issued.Before(before) || first.Issued.After(time.Now()) {
		t.Errorf("got %+v", first)
	}
	if want := first.Issued.Add(time.Minute); !first.Expiry().Equal(want) {
		t.Errorf("ends %v, want %v", first.Expiry(), want)
	}
	token, failure = ask(t, s, nil)
	if got := must(t, token, failure); got.Lifetime != time.Hour {
		t.Errorf("an answer without a lifetime gets %v, not the default", got.Lifetime)
	}
	if got := (&Token{Issued: before}).Expiry(); !got.IsZero() {
		t.Errorf("a token of unknown lifetime ends %v", got)
	}
}

// refusals are answers to a refresh. Where the refresh token was refused, the
// grant takes over.
var refusals = []struct {
	name     string
	reply    http.HandlerFunc
	takeOver bool
}{
	{"invalid_grant", reply(400, `{"error":"invalid_grant"}`), true},
	{"invalid_grant with 401", reply(401, `{"error":"invalid_grant"}`), true},
	{"invalid_request", reply(400, `{"error":"invalid_request"}`), true},
	{"unsupported_grant_type", reply(400, `{"error":"unsupported_grant_type"}`), true},
	{"GitHub's 200", reply(200, `{"error":"bad_refresh_token","error_description":"The refresh token passed is incorrect or expired."}`), true},
	{"a sentence with 200", reply(200, `{"error":"Your session has ended"}`), true},
	{"400 without a code", reply(400, `{"message":"expired"}`), true},
	{"400 of HTML", reply(400, `<html>Bad Request</html>`), true},
	{"403 without a body", reply(403, ""), true},
	{"404", reply(404, "not found"), true},
	{"200 without a token", reply(200, `{"success":false}`), true},
	{"redirect to the login page", reply(302, "", "Location", "/login"), true},

	{"invalid_client", reply(401, `{"error":"invalid_client"}`), false},
	{"invalid_client with 400", reply(400, `{"error":"Invalid_Client"}`), false},
	{"429", reply(429, `{"error":"invalid_grant"}`, "Retry-After", "7"), false},
	{"408", reply(408, ""), false},
	{"425", reply(425, ""), false},
	{"500", reply(500, `{"error":"invalid_grant"}`), false},
	{"502 of HTML", reply(502, `<html>Bad Gateway</html>`), false},
	{"503", reply(503, "", "Retry-After", "7"), false},
	{"200 of HTML", reply(200, `<html>Maintenance</html>`), false},
	{"200, empty", reply(200, ``), false},
	{"broken off", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"error":"inva`))
	}, false},
	{"hung up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false},
}

func TestTheGrantItselfTakesOverWhereARefreshTokenIsRefused(t *testing.T) {
	t.Parallel()
	custom := func(c *Config) {
		customGrant(c)
		c.Params = []Param{param("grant_type", "custom")}
		c.RefreshRequest = &Request{Params: []Param{param("grant_type", "refresh_token"), param("refresh_token", "{refresh_token}")}}
	}
	for _, change := range []func(*Config){func(*Config) {}, login, custom} {
		for _, r := range refusals {
			p := newProvider(t, r.reply, issue("at-1", "rt-1"))
			c := client(p)
			change(&c)
			t.Run(c.Grant+" "+r.name, func(t *testing.T) {
				t.Parallel()
				token, failure := obtain(t, c, withRefresh("dead"))
				if !r.takeOver {
					mustFail(t, token, failure)
					p.only(t)
					return
				}
				if got := must(t, token, failure); got.AccessToken != "at-1" || got.RefreshToken != "rt-1" {
					t.Errorf("got %+v", got)
				}
				if got, want := p.grantTypes(t), []string{"refresh_token", c.Grant}; !slices.Equal(got, want) {
					t.Errorf("asked with %q, want %q", got, want)
				}
				if got := p.arrived()[1].values(t); got.Has("refresh_token") {
					t.Errorf("the dead refresh token went along with the grant: %v", got)
				}
			})
		}
	}
}

func TestADeadNetworkIsNoReasonToAskWithTheGrant(t *testing.T) {
	t.Parallel()
	asked := 0
	c := Config{Grant: "password", Username: "u", Password: "p", TokenURL: "https://x.test/t", Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		asked++
		return nil, errors.New("no route")
	})}
	token, failure := obtain(t, c, withRefresh("rt"))
	if e := mustFail(t, token, failure); asked != 1 || e.Permanent {
		t.Errorf("%d requests, %#v", asked, describe(e))
	}
}

func TestAfterATakeOverTheErrorIsTheGrants(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(400, `{"error":"invalid_grant","error_description":"refresh token expired"}`),
		reply(401, `{"error":"unauthorized_client","error_description":"the grant"}`))
	token, failure := obtain(t, client(p), withRefresh("dead"))
	if e := mustFail(t, token, failure); e.Code != "unauthorized_client" || e.Description != "the grant" || !e.Permanent {
		t.Errorf("got %v", e)
	}
}

func TestATakeOverWithoutARefreshTokenInItsAnswerForgetsTheDeadOne(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(400, `{"error":"invalid_grant"}`), issue("at-1", ""), issue("at-2", ""))
	s := newSource(t, client(p))
	token, failure := ask(t, s, withRefresh("dead"))
	first := must(t, token, failure)
	if first.RefreshToken != "" {
		t.Errorf("kept the refresh token %q", first.RefreshToken)
	}
	token, failure = ask(t, s, first)
	must(t, token, failure)
	if got := p.grantTypes(t); len(got) != 3 || got[2] != "client_credentials" {
		t.Errorf("asked with %q", got)
	}
}

func TestCustomRefreshesOnlyAsWritten(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"))
	c := client(p)
	customGrant(&c)
	c.Params = []Param{param("user", "joe")}
	token, failure := obtain(t, c, withRefresh("rt-0"))
	must(t, token, failure)
	if got := p.only(t); got.body != "user=joe" {
		t.Errorf("without refresh_request, arrived %q", got.body)
	}
	c.RefreshRequest = &Request{Params: []Param{omit("user"), param("renew", "{refresh_token}")}}
	token, failure = obtain(t, c, withRefresh("rt-0"))
	must(t, token, failure)
	if got := p.arrived()[1]; got.body != "renew=rt-0" {
		t.Errorf("with refresh_request, arrived %q", got.body)
	}
	token, failure = obtain(t, c, &Token{AccessToken: "at"})
	must(t, token, failure)
	if got := p.arrived()[2]; got.body != "user=joe" {
		t.Errorf("without a refresh token, arrived %q", got.body)
	}
}

// file is a secret that is changed under way.
type file struct{ value atomic.Value }

func newFile(value string) *file {
	f := new(file)
	f.value.Store(value)
	return f
}

func (f *file) write(value string) { f.value.Store(value) }

func (f *file) lookup(name string) (string, bool) {
	if name != "file.rt" {
		return "", false
	}
	return f.value.Load().(string), true
}

func seeded(p *provider, f *file) Config {
	c := client(p)
	c.Grant, c.RefreshToken, c.Lookup = "refresh_token", "{file.rt}", f.lookup
	return c
}

func TestTheGrantRefreshTokenBeginsWithTheConfiguredOneAndGoesOnWithTheRotated(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", ""), issue("at-3", "rt-3"))
	s := newSource(t, seeded(p, newFile("seed")))
	var token *Token
	for range 4 {
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
	}
	if got, want := p.refreshTokens(t), []string{"seed", "rt-1", "rt-1", "rt-3"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestTheGrantRefreshTokenWithoutRotationGoesOnWithTheConfiguredOne(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", ""))
	f := newFile("seed-1")
	s := newSource(t, seeded(p, f))
	var token *Token
	for i := range 4 {
		if i == 2 {
			f.write("seed-2")
		}
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
	}
	if got, want := p.refreshTokens(t), []string{"seed-1", "seed-1", "seed-2", "seed-2"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestTheGrantRefreshTokenNeverAsksTwice(t *testing.T) {
	t.Parallel()
	for _, r := range refusals {
		p := newProvider(t, r.reply)
		f := newFile("seed")
		s := newSource(t, seeded(p, f))
		token, failure := ask(t, s, &Token{RefreshToken: "rotated", descents: []descent{{seedOf("seed"), "rotated"}}})
		mustFail(t, token, failure)
		if got := p.refreshTokens(t); !slices.Equal(got, []string{"rotated"}) {
			t.Errorf("%s: sent %q", r.name, got)
		}
	}
}

func TestANewConfiguredRefreshTokenTakesOverAtOnceAndASpentOneNever(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", "rt-2"), issue("at-3", "rt-3"),
		reply(400, `{"error":"invalid_grant"}`), issue("at-5", "rt-5"), issue("at-6", "rt-6"))
	f := newFile("seed-1")
	s := newSource(t, seeded(p, f))
	var token *Token
	next := func() *Error {
		t.Helper()
		got, failure := ask(t, s, token)
		if failure == nil {
			token = got
		}
		return failure
	}
	next()
	next()
	f.write("seed-2")
	next()
	e := next() // refused for good
	if e == nil || !e.Permanent || e.Changed == nil || e.Changed() {
		t.Fatalf("got %v", e)
	}
	if f.write("seed-3"); !e.Changed() {
		t.Error("a new configured refresh token is no change")
	}
	next()
	next()
	want := []string{"seed-1", "rt-1", "seed-2", "rt-3", "seed-3", "rt-5"}
	if got := p.refreshTokens(t); !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestASpentConfiguredRefreshTokenIsNeverSentAgainAlsoAfterItsFileWasUnreadable(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", "rt-2"), issue("at-3", "rt-3"))
	f := newFile("seed")
	s := newSource(t, seeded(p, f))
	var token *Token
	for _, value := range []string{"seed", "", "seed"} {
		f.write(value)
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
	}
	if got, want := p.refreshTokens(t), []string{"seed", "rt-1", "rt-2"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestARefreshTokenConfiguredWhileARequestRunsIsUsedNext(t *testing.T) {
	t.Parallel()
	f := newFile("old")
	p := newProvider(t, func(w http.ResponseWriter, r *http.Request) {
		f.write("new") // read again only when the answer is there
		issue("at-1", "rt-1")(w, r)
	}, issue("at-2", "rt-2"))
	s := newSource(t, seeded(p, f))
	token, failure := ask(t, s, nil)
	first := must(t, token, failure)
	token, failure = ask(t, s, first)
	must(t, token, failure)
	if got, want := p.refreshTokens(t), []string{"old", "new"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestATokenIsNotLostWhereTheContextEndsBehindTheAnswer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := Config{Grant: "refresh_token", RefreshToken: "seed", ClientID: "c", TokenURL: "https://x.test/t",
		Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			cancel()
			return madeUp(200, `{"access_token":"at","refresh_token":"rotated"}`), nil
		})}
	token, failure := askWithin(t, ctx, newSource(t, c), nil)
	if got := must(t, token, failure); got.RefreshToken != "rotated" {
		t.Errorf("got %+v", got)
	}
}

func TestALoginRefusedInUnclearWordsIsLeftAloneFor10Minutes(t *testing.T) {
	t.Parallel()
	const long = 10 * time.Minute
	for _, test := range []struct {
		name      string
		reply     http.HandlerFunc
		permanent bool
		login     time.Duration // RetryAfter of a login
		other     time.Duration // and of anything else
	}{
		{"400 without a code", reply(400, `{"message":"no"}`), false, long, 0},
		{"401, empty", reply(401, ""), false, long, 0},
		{"403 of HTML", reply(403, "<html>Locked</html>"), false, long, 0},
		{"a code of its own", reply(400, `{"error":"bad_credentials"}`), false, long, 0},
		{"200 with an error", reply(200, `{"error":"Wrong password"}`), false, long, 0},
		{"200 without a token", reply(200, `{"success":false,"message":"Wrong password"}`), false, long, 0},
		{"redirect", reply(302, "", "Location", "/login?failed=1"), false, long, 0},
		{"the provider's own time", reply(401, "", "Retry-After", "90"), false, 90 * time.Second, 90 * time.Second},
		{"invalid_grant", reply(400, `{"error":"invalid_grant"}`), true, 0, 0},
		{"invalid_client", reply(401, `{"error":"invalid_client"}`), true, 0, 0},
		{"408", reply(408, ""), false, 0, 0},
		{"425", reply(425, ""), false, 0, 0},
		{"429", reply(429, ""), false, 0, 0},
		{"429 with a time", reply(429, "", "Retry-After", "30"), false, 30 * time.Second, 30 * time.Second},
		{"500", reply(500, `{"error":"invalid_grant"}`), false, 0, 0},
		{"503", reply(503, "", "Retry-After", "3"), false, 3 * time.Second, 3 * time.Second},
		{"hung up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false, 0, 0},
	} {
		for _, change := range []func(*Config){login, customGrant, func(*Config) {}, func(c *Config) { c.Grant, c.RefreshToken = "refresh_token", "seed" }} {
			p := newProvider(t, test.reply)
			c := client(p)
			change(&c)
			want := test.other
			if c.Grant == "password" || c.Grant == "custom" {
				want = test.login
			}
			token, failure := obtain(t, c, nil)
			if e := mustFail(t, token, failure); e.RetryAfter != want || e.Permanent != test.permanent {
				t.Errorf("%s, %s: RetryAfter %v, permanent %v; want %v, %v", c.Grant, test.name, e.RetryAfter, e.Permanent, want, test.permanent)
			}
		}
	}
}
