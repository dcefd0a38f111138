package caddy_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestAReloadMeanwhileChangesNothing has Caddy load another configuration while
// a person is away.
func TestAReloadMeanwhileChangesNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	s := d.terminal("authorize", "crm")
	v := d.provider.Visit(d.awaitURL(s))
	text, err := os.ReadFile(filepath.Join(d.caddy.Dir, "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.caddy.Reload(string(text) + freeURL(t) + " {\n\trespond hello\n}\n"); err != nil {
		t.Fatal(err)
	}
	if status, page := d.land(v); status != http.StatusOK {
		t.Errorf("the landing page is %d %s", status, page)
	}
	assertEnd(t, s, 0, "Authorized: crm")
	d.assertServed()
}

// TestARestartMeanwhileIsWaitedFor has Caddy end and start again while a person
// is away.
func TestARestartMeanwhileIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	s := d.terminal("authorize", "crm")
	v := d.provider.Visit(d.awaitURL(s))
	d.caddy.Stop()
	s.Await("does not answer")
	d.caddy = d.caddy.Again()
	if status, page := d.land(v); status != http.StatusOK {
		t.Errorf("the landing page is %d %s", status, page)
	}
	assertEnd(t, s, 0, "Authorized: crm")
	assertSentences(t, s.Screen())
	d.assertServed()
}

func TestAPersonDoesNotWaitForACaddyThatIsGone(t *testing.T) {
	t.Parallel()
	for _, grant := range []string{"authorization_code", "device_code"} {
		d := newDesk(t, grant, "")
		s := d.terminal("authorize", "crm")
		s.Await("waited for until")
		d.caddy.Stop()
		s.Await("does not answer")
		s.Interrupt()
		assertEnd(t, s, 130, "Cancelled")
		assertSentences(t, s.Screen())
	}
}

// TestTwoPersonsDoNotDisturbEachOther has two terminals for one source.
func TestTwoPersonsDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	one := d.terminal("authorize", "crm")
	visitedOne := d.provider.Visit(d.awaitURL(one))
	two := d.terminal("authorize", "crm")
	visitedTwo := d.provider.Visit(d.awaitURL(two))
	if status, page := d.land(visitedTwo); status != http.StatusOK {
		t.Errorf("the landing page is %d %s", status, page)
	}
	assertEnd(t, two, 0, "Authorized: crm")
	if one.Ended() {
		t.Errorf("the other has ended with it:\n%s", one.Screen())
	}
	one.Type(visitedOne.Answer.Get("code"))
	assertEnd(t, one, 0, "Authorized: crm")
	d.assertServed()
	d.provider.AssertStrict()
}

// TestTheCallbackMayBeFasterThanThePerson has a code pasted that the browser has
// brought already.
func TestTheCallbackMayBeFasterThanThePerson(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	s := d.terminal("authorize", "crm")
	v := d.provider.Visit(d.awaitURL(s))
	if status, page := d.land(v); status != http.StatusOK {
		t.Errorf("the landing page is %d %s", status, page)
	}
	if !s.Ended() {
		s.Type(v.Location)
	}
	assertEnd(t, s, 0, "Authorized: crm")
	d.assertServed()
	if n := d.provider.Count(); n != 1 {
		t.Errorf("the code was sent %d times", n)
	}
}

// TestAGrantIsReplaced authorizes a source that has a token.
func TestAGrantIsReplaced(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	d.authorize()
	_, first := d.tokens()
	d.provider.Set(func(k *provider.Knobs) { k.Scope = "read" })
	d.authorize()
	d.assertServed()
	request := d.provider.LastAPIRequest()
	if token := bearerOf(&http.Request{Header: request.Header}); token == first || !d.provider.Valid(token) {
		t.Errorf("the API gets the old token: %v", token == first)
	}
	if scopes := d.status().Scopes; len(scopes) != 1 || scopes[0] != "read" {
		t.Errorf("the scopes are %q", scopes)
	}
}
