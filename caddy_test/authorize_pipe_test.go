package caddy_test

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
	"github.com/caddytoken/inject-token/caddy_test/internal/terminal"
)

// scriptURL waits for the address as a script does, which sees no prompt.
func scriptURL(d *desk, s *terminal.Session) string {
	d.t.Helper()
	address := s.AwaitMatch(printedURL)[1]
	if !strings.HasPrefix(address, d.provider.AuthorizeURL()+"?") {
		d.t.Fatalf("the address is %s", address)
	}
	return address
}

func TestAScriptReadsTheAddressAndWritesTheCode(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "")
	s := d.pipes("authorize", "crm")
	v := d.provider.Visit(scriptURL(d, s))
	s.Type(v.Shown)
	assertEnd(t, s, 0, "Authorized: crm")
	if strings.Contains(s.Raw(), "\x1b") {
		t.Errorf("control sequences in a pipe: %q", s.Raw())
	}
	d.assertServed()
}

// TestAPINThatSomebodySentIsPiped is `echo PIN | caddy token-source authorize crm`:
// the person has opened the address before, which without PKCE is the same
// each time.
func TestAPINThatSomebodySentIsPiped(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "pkce off")
	d.provider.Set(func(k *provider.Knobs) { k.NoPKCE = true })
	query := url.Values{"response_type": {"code"}, "client_id": {provider.ClientID}, "scope": {"read write"}}
	pin := d.provider.Visit(d.provider.AuthorizeURL() + "?" + query.Encode()).Shown

	s := d.pipes("authorize", "crm")
	s.Type(pin + "\r") // as a file of another system has it
	s.Close()
	assertEnd(t, s, 0, "Authorized: crm")
	d.assertServed()
	d.provider.AssertStrict()
}

func TestAWrongPINThatIsPipedEndsWithAnError(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "")
	s := d.pipes("authorize", "crm")
	s.Type("wrong")
	s.Close()
	assertEnd(t, s, 4, "invalid_grant")
	d.assertNeedsPerson()
}

func TestWithoutInputTheCallbackIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"pipe", "terminal"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, "authorization_code", withCallback)
			var s *terminal.Session
			var address string
			if how == "pipe" {
				s = d.pipes("authorize", "crm")
				s.Close()
				address = scriptURL(d, s)
			} else {
				s = d.terminal("authorize", "crm")
				address = d.awaitURL(s)
				s.Close()
			}
			if status, page := d.land(d.provider.Visit(address)); status != http.StatusOK {
				t.Errorf("the landing page is %d %s", status, page)
			}
			assertEnd(t, s, 0, "Authorized: crm")
		})
	}
}

func TestWithoutInputNoPINCanCome(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "")
	output, code := d.run("authorize", "crm")
	if code == 0 || code > 4 || !strings.Contains(output, "input") {
		t.Errorf("ended with %d:\n%s", code, output)
	}
	if n := d.provider.Count(); n != 0 {
		t.Errorf("%d token requests", n)
	}
}

// TestOpenCallsTheBrowser has a browser of its own in the command's path.
func TestOpenCallsTheBrowser(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	cmd := harness.Command(t, d.caddy.Dir, d.command([]string{"authorize", "crm", "--open"})...)
	opened := filepath.Join(d.caddy.Dir, "opened")
	for _, name := range []string{"xdg-open", "open"} {
		script := "#!/bin/sh\nprintf '%s' \"$1\" > " + opened + ".new && mv " + opened + ".new " + opened + "\n"
		if err := os.WriteFile(filepath.Join(d.caddy.Dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Env = append(cmd.Env, "DISPLAY=:0", "PATH="+d.caddy.Dir+":"+os.Getenv("PATH"))
	s := d.note(terminal.Start(t, cmd))
	printed := d.awaitURL(s)
	var address string
	harness.Eventually(t, 30*time.Second, "the browser is called", func() bool {
		text, err := os.ReadFile(opened)
		address = string(text)
		return err == nil
	})
	if address != printed {
		t.Errorf("opened %s, printed %s", address, printed)
	}
	d.land(d.provider.Visit(address))
	assertEnd(t, s, 0, "Authorized: crm")
}

func TestWithoutABrowserTheAddressIsPrinted(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	cmd := harness.Command(t, d.caddy.Dir, d.command([]string{"authorize", "crm", "--open"})...)
	cmd.Env = append(cmd.Env, "PATH="+t.TempDir())
	s := d.note(terminal.Start(t, cmd))
	d.land(d.provider.Visit(d.awaitURL(s)))
	assertEnd(t, s, 0, "No browser", "Authorized: crm")
}

// TestALongCodeIsPasted has a code as long as some providers' are, which put
// a whole session into it.
func TestALongCodeIsPasted(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	d.provider.Set(func(k *provider.Knobs) {
		k.NewCode = func() string { return "code-" + strings.Repeat(rand.Text(), 130) }
	})
	s := d.terminal("authorize", "crm")
	v := d.provider.Visit(d.awaitURL(s))
	if n := len(v.Location); n < 3000 {
		t.Fatalf("the address has %d characters", n)
	}
	s.Type(v.Location)
	assertEnd(t, s, 0, "Authorized: crm")
	d.assertServed()
}
