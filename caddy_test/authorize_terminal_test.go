package caddy_test

import (
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

const withCallback = "redirect_uri CALLBACK"

func TestAPersonAuthorizesInABrowserAndTheCommandEndsByItself(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback+"\n authorize_param prompt consent")
	d.assertNeedsPerson()
	s := d.terminal("authorize", "crm")
	address := d.awaitURL(s)
	if !regexp.MustCompile(`\d\d:\d\d`).MatchString(s.Screen()) {
		t.Errorf("it does not say until when it waits:\n%s", s.Screen())
	}
	v := d.provider.Visit(address)
	query := d.provider.Authorizations()[0].Query
	for name, want := range map[string]string{"scope": "read write", "prompt": "consent", "redirect_uri": d.url + callbackPath} {
		if got := query.Get(name); got != want {
			t.Errorf("the address has %s %q, want %q", name, got, want)
		}
	}
	if s.Ended() {
		t.Error("the command has ended before the browser came back")
	}
	status, page := d.land(v)
	if status != http.StatusOK || !strings.Contains(page, "Authorized") || !strings.Contains(page, "crm") {
		t.Errorf("the landing page is %d %s", status, page)
	}
	assertEnd(t, s, 0, "Authorized: crm", "read", "write")
	if !regexp.MustCompile(`Authorized: crm(?s:.*)\d\d:\d\d`).MatchString(s.Screen()) {
		t.Errorf("it does not say until when the token is good:\n%s", s.Screen())
	}
	d.assertServed()
	d.provider.AssertStrict()
}

func TestAPersonPastesWhatTheyHave(t *testing.T) {
	t.Parallel()
	const pin = "" // no redirect_uri: the provider shows it
	for _, c := range []struct {
		name, options string
		paste         func(v provider.Visited) string
	}{
		{"the code", withCallback, func(v provider.Visited) string { return v.Answer.Get("code") }},
		{"the whole address", withCallback, func(v provider.Visited) string { return v.Location }},
		{"the query", withCallback, func(v provider.Visited) string { return v.Answer.Encode() }},
		{"with blanks around", withCallback, func(v provider.Visited) string { return "  " + v.Answer.Get("code") + "\t " }},
		{"a PIN", pin, func(v provider.Visited) string { return v.Shown }},
		{"a PIN out of band", "redirect_uri " + provider.OutOfBand, func(v provider.Visited) string { return v.Shown }},
		{"the text of a QR code", pin + "code_field 2 |", func(v provider.Visited) string { return "v1|" + v.Shown + "|example.org" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, "authorization_code", c.options)
			s := d.terminal("authorize", "crm")
			v := d.provider.Visit(d.awaitURL(s))
			if has, want := d.provider.Authorizations()[0].Query.Has("state"), c.options == withCallback; has != want {
				t.Errorf("the address has a state: %v, want %v", has, want)
			}
			s.Type(c.paste(v))
			assertEnd(t, s, 0, "Authorized: crm")
			d.assertServed()
			d.provider.AssertStrict()
		})
	}
}

func TestAWrongCodeIsAskedForAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "")
	s := d.terminal("authorize", "crm")
	v := d.provider.Visit(d.awaitURL(s))
	s.Type(v.Shown + "x")
	s.Await("invalid_grant")
	s.Await("\n> ")
	s.Type("") // Enter alone asks nobody
	s.Await("> ")
	asked := d.provider.Count()
	s.Type(v.Shown)
	assertEnd(t, s, 0, "Authorized: crm")
	if asked != 1 || d.provider.Count() != 2 {
		t.Errorf("%d token requests for one wrong code and an empty line, and %d in all", asked, d.provider.Count())
	}
	d.assertServed()
}

func TestTheAddressOfAnotherAuthorizationIsNotTaken(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	s := d.terminal("authorize", "crm")
	v := d.provider.Visit(d.awaitURL(s))
	forged := strings.Replace(v.Location, "state="+url.QueryEscape(v.Answer.Get("state")), "state=another", 1)
	if forged == v.Location {
		t.Fatal(v.Location)
	}
	s.Type(forged)
	s.Await("state")
	s.Await("\n> ")
	if n := d.provider.Count(); n != 0 {
		t.Errorf("%d token requests", n)
	}
	s.Type(v.Location)
	assertEnd(t, s, 0, "Authorized: crm")
}

func TestFiveWrongCodesAreEnough(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "")
	s := d.terminal("authorize", "crm")
	d.awaitURL(s)
	for i := range 5 {
		if i > 0 {
			s.Await("\n> ")
		}
		s.Type("wrong" + itoa(i))
		s.Await("invalid_grant")
	}
	assertEnd(t, s, 4)
	if n := d.provider.Count(); n != 5 {
		t.Errorf("%d token requests", n)
	}
}

func TestCtrlCCancels(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	s := d.terminal("authorize", "crm")
	v := d.provider.Visit(d.awaitURL(s))
	pressed := time.Now()
	s.Interrupt()
	assertEnd(t, s, 130, "Cancelled")
	if took := time.Since(pressed); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	// What the browser does later counts for nothing.
	if status, page := d.land(v); status != http.StatusBadRequest || !strings.Contains(page, "caddy token-source authorize crm") {
		t.Errorf("the landing page is %d %s", status, page)
	}
	if n := d.provider.Count(); n != 0 {
		t.Errorf("%d token requests", n)
	}
	d.assertNeedsPerson()
}

func TestCtrlCCancelsADevice(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "device_code", "")
	s := d.terminal("authorize", "crm")
	user := d.awaitUserCode(s)
	d.caddy.Eventually(30*time.Second, "the provider is polled", func() bool { return len(d.provider.Polls(user)) > 0 })
	s.Interrupt()
	assertEnd(t, s, 130, "Cancelled")
	d.assertNeedsPerson()
	polled := len(d.provider.Polls(user))
	time.Sleep(3 * time.Second) // the provider's interval is one
	if n := len(d.provider.Polls(user)); n > polled+1 {
		t.Errorf("the provider is asked %d times more", n-polled)
	}
	d.provider.Approve(user)
	time.Sleep(2 * time.Second)
	d.assertNeedsPerson()
}

func TestAPersonWhoRefusesIsTold(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	d.provider.Set(func(k *provider.Knobs) {
		k.Person = func(*provider.AuthorizationRequest) string { return "access_denied" }
	})
	s := d.terminal("authorize", "crm")
	status, page := d.land(d.provider.Visit(d.awaitURL(s)))
	if status < 400 || !strings.Contains(page, "access_denied") || !strings.Contains(page, "caddy token-source authorize crm") {
		t.Errorf("the landing page is %d %s", status, page)
	}
	assertEnd(t, s, 4, "access_denied")
	d.assertNeedsPerson()
}

func TestAProviderThatIsDownIsSaidSo(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	d.provider.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(http.StatusServiceUnavailable, "") })
	s := d.terminal("authorize", "crm")
	if status, page := d.land(d.provider.Visit(d.awaitURL(s))); status != http.StatusBadGateway {
		t.Errorf("the landing page is %d %s", status, page)
	}
	assertEnd(t, s, 4, "503")
	d.assertNeedsPerson()
}

func TestAGrantWithoutARefreshTokenIsSaidSo(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "")
	d.provider.Set(func(k *provider.Knobs) { k.Offline = false })
	s := d.terminal("authorize", "crm")
	s.Type(d.provider.Visit(d.awaitURL(s)).Shown)
	assertEnd(t, s, 0, "Authorized: crm", "refresh token")
}

func TestFewerScopesThanAskedForAreShown(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "")
	d.provider.Set(func(k *provider.Knobs) { k.Scope = "read" })
	s := d.terminal("authorize", "crm")
	s.Type(d.provider.Visit(d.awaitURL(s)).Shown)
	assertEnd(t, s, 0, "Authorized: crm")
	_, said, _ := strings.Cut(s.Screen(), "Authorized: crm")
	if !strings.Contains(said, "read") || d.status().Scopes[0] != "read" || len(d.status().Scopes) != 1 {
		t.Errorf("it says %q, and the status %q", said, d.status().Scopes)
	}
}

// TestTheCommandListensForTheBrowserItself has a redirect_uri on loopback, as of
// a client that is registered for a program on a desktop (RFC 8252).
func TestTheCommandListensForTheBrowserItself(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"the browser lands", "a code is pasted", "Ctrl-C"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			address := "127.0.0.1:" + itoa(harness.Port(t))
			d := newDesk(t, "authorization_code", "redirect_uri http://"+address+"/landing")
			s := d.terminal("authorize", "crm")
			v := d.provider.Visit(d.awaitURL(s))
			switch end {
			case "the browser lands":
				for query, want := range map[string]int{"/other?" + v.Answer.Encode(): http.StatusNotFound, "/landing?code=a&state=crm.b": http.StatusBadRequest} {
					if resp, page := harness.Get(t, "http://"+address+query); resp.StatusCode != want {
						t.Errorf("%s is answered %d %s", query, resp.StatusCode, page)
					}
				}
				if s.Ended() || d.provider.Count() != 0 {
					t.Errorf("what is not the answer was taken: %d token requests", d.provider.Count())
				}
				status, page := d.land(v)
				if status != http.StatusOK || !strings.Contains(page, "Authorized") {
					t.Errorf("the landing page is %d %s", status, page)
				}
				assertEnd(t, s, 0, "Authorized: crm")
				d.assertServed()
			case "a code is pasted":
				s.Type(v.Location)
				assertEnd(t, s, 0, "Authorized: crm")
			case "Ctrl-C":
				s.Interrupt()
				assertEnd(t, s, 130, "Cancelled")
			}
			if conn, err := net.Dial("tcp", address); err == nil {
				conn.Close()
				t.Error("somebody listens when the command has ended")
			}
		})
	}
}

func TestWhereAnotherProgramListensACodeCanBePasted(t *testing.T) {
	t.Parallel()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	d := newDesk(t, "authorization_code", "redirect_uri http://"+other.Addr().String()+"/landing")
	s := d.terminal("authorize", "crm")
	s.Type(d.provider.Visit(d.awaitURL(s)).Location)
	assertEnd(t, s, 0, "Authorized: crm")
}
