package tokensource

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAnEarlierConfiguredRefreshTokenGoesOnWithWhatItHasBecome(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", "rt-2"), issue("at-3", "rt-3"), issue("at-4", "rt-4"))
	f := newFile("seed-1")
	s := newSource(t, seeded(p, f))
	var token *Token
	for _, seed := range []string{"seed-1", "seed-2", "seed-1", "seed-2"} { // as where a reload fails, and is done once more
		f.write(seed)
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
	}
	if got, want := p.refreshTokens(t), []string{"seed-1", "seed-2", "rt-1", "rt-2"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestFewConfiguredRefreshTokensAreRemembered(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", "rt"))
	f := newFile("")
	s := newSource(t, seeded(p, f))
	var token *Token
	for i := range 3 * mostDescents {
		f.write("seed-" + strings.Repeat("x", i))
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
	}
	if n := len(token.descents); n != mostDescents {
		t.Errorf("%d", n)
	}
}

func TestNobodyElsesRefreshTokenIsUsedWhereTheConfiguredOneIsMissing(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-of-alice"))
	alice := seeded(p, newFile("alice"))
	token, failure := ask(t, newSource(t, alice), nil)
	first := must(t, token, failure)
	v := newVault()
	bob := alice
	bob.RefreshToken, bob.Lookup = "{file./bob}", v.lookup
	s := newSource(t, bob)
	token, failure = ask(t, s, first)
	e := mustFail(t, token, failure)
	if want := "refresh_token: the placeholder {file./bob} is empty or cannot be read"; e.Reason != want || !e.Permanent || e.Changed() {
		t.Errorf("got %v, permanent %v", e, e.Permanent)
	}
	if v.set("file./bob", "bob"); !e.Changed() {
		t.Error("a file that is there now is no change")
	}
	token, failure = ask(t, s, first)
	must(t, token, failure)
	if got, want := p.refreshTokens(t), []string{"alice", "bob"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestWhatIsNoRefreshTokenDoesNotTakeThePlaceOfOne(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"false", "true", "0", "0.0", `" "`, `"\n"`, `"a\u0000b"`, `""`, "null", "{}", "[]"} {
		p := newProvider(t, reply(200, `{"access_token":"at-1","refresh_token":`+value+`}`))
		token, failure := obtain(t, client(p), withRefresh("good"))
		if got := must(t, token, failure); got.RefreshToken != "good" {
			t.Errorf("%s: it became %q", value, got.RefreshToken)
		}
	}
}

// Some providers issue one token until it ends, with the seconds that are left.
func TestTheSameTokenDoesNotLiveLongerThanWasSaid(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, `{"access_token":"at","expires_in":10}`), reply(200, `{"access_token":"at","expires_in":3}`),
		reply(200, `{"access_token":"at","expires_in":0}`), reply(200, `{"access_token":"another","expires_in":0}`))
	c := client(p)
	c.DefaultLifetime = time.Hour
	s := newSource(t, c)
	var all []*Token
	var token *Token
	for range 4 {
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
		all = append(all, token)
	}
	if all[0].Lifetime != 10*time.Second || all[1].Lifetime != 3*time.Second {
		t.Errorf("lifetimes %v, %v", all[0].Lifetime, all[1].Lifetime)
	}
	if !all[2].Expiry().Equal(all[1].Expiry()) {
		t.Errorf("it was to end at %v and now at %v", all[1].Expiry(), all[2].Expiry())
	}
	if all[3].Lifetime != time.Hour {
		t.Errorf("another token lives %v", all[3].Lifetime)
	}
}

func TestEachOfTwoRequestsHasItsTime(t *testing.T) {
	t.Parallel()
	var times []time.Duration
	p := newProvider(t, issue("at", ""))
	c := client(p)
	c.Timeout = 10 * time.Second
	c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		deadline, _ := r.Context().Deadline()
		times = append(times, time.Until(deadline))
		time.Sleep(100 * time.Millisecond)
		if len(times) == 1 {
			return madeUp(400, `{"error":"invalid_grant"}`), nil
		}
		return madeUp(200, `{"access_token":"at"}`), nil
	})
	token, failure := obtain(t, c, withRefresh("dead"))
	must(t, token, failure)
	if len(times) != 2 || times[1] < times[0]-50*time.Millisecond {
		t.Errorf("the requests had %v", times)
	}
	c.Timeout = time.Millisecond
	c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	token, failure = askWithin(t, context.Background(), newSource(t, c), nil)
	if e := mustFail(t, token, failure); !strings.HasSuffix(e.Reason, "no complete answer in time") {
		t.Errorf("got %v", e)
	}
}

func TestARefusedRefreshTokenIsToldWhereTheGrantFailsAsWell(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(400, `{"error":"invalid_grant"}`), reply(503, ""), reply(503, ""))
	s := newSource(t, client(p))
	previous := withRefresh("dead")
	token, failure := ask(t, s, previous)
	if e := mustFail(t, token, failure); !e.RefreshTokenRefused || e.Permanent {
		t.Errorf("got %v, refused %v", e, e.RefreshTokenRefused)
	}
	token, failure = ask(t, s, previous.WithoutRefreshToken())
	if e := mustFail(t, token, failure); e.RefreshTokenRefused {
		t.Error("nothing was refused the second time")
	}
	if got, want := p.grantTypes(t), []string{"refresh_token", "client_credentials", "client_credentials"}; !slices.Equal(got, want) {
		t.Errorf("asked with %q, want %q", got, want)
	}
	if previous.RefreshToken != "dead" {
		t.Error("the token itself was changed")
	}
}

func TestATokenWhoseLifetimeWeAssumeIsNewEachTime(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, `{"access_token":"static"}`))
	c := client(p)
	c.DefaultLifetime = time.Hour
	s := newSource(t, c)
	token, failure := ask(t, s, nil)
	first := must(t, token, failure)
	time.Sleep(2 * time.Millisecond)
	token, failure = ask(t, s, first)
	if second := must(t, token, failure); !second.Issued.After(first.Issued) || second.Lifetime != time.Hour {
		t.Errorf("issued %v, then %v with a lifetime of %v", first.Issued, second.Issued, second.Lifetime)
	}
	ended := &Token{AccessToken: "static", Issued: time.Now().Add(-time.Hour), Lifetime: time.Minute, said: true}
	token, failure = ask(t, s, ended)
	if got := must(t, token, failure); got.Lifetime != time.Hour {
		t.Errorf("a token that had ended was issued again with %v", got.Lifetime)
	}
}

func TestARefusedRefreshTokenIsNotSentAgainWhereTheGrantBringsNone(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), reply(400, `{"error":"invalid_grant"}`), issue("at-2", ""), issue("at-3", ""))
	s := newSource(t, client(p))
	var token *Token
	for range 3 {
		next, failure := ask(t, s, token)
		token = must(t, next, failure)
	}
	if got, want := p.refreshTokens(t), []string{"", "rt-1", "", ""}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}
