package caddy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/canary"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
	"github.com/caddytoken/inject-token/caddy_test/internal/terminal"
)

// desk is a person at a terminal, a provider that knows them, and Caddy with
// the source crm of that provider.
type desk struct {
	t        *testing.T
	provider *provider.Provider
	caddy    *harness.Caddy
	url      string // of the site

	shown []func() string // what each command has written
}

// callbackPath is where the site of a desk has its token_callback.
const callbackPath = "/oauth/callback"

// newDesk starts Caddy with a source. In its further options CALLBACK stands for
// the address of the callback, and REVOKE for that of the revocation endpoint.
func newDesk(t *testing.T, grant, options string) *desk {
	t.Helper()
	return newDeskOf(t, provider.Dialect{}, grant, options)
}

// newDeskOf is newDesk with a provider of its own kind.
func newDeskOf(t *testing.T, dialect provider.Dialect, grant, options string) *desk {
	t.Helper()
	p := provider.New(t, dialect)
	p.Set(func(k *provider.Knobs) { k.Offline = true })
	d := &desk{t: t, provider: p}
	t.Cleanup(d.assertHidden) // after Caddy's own end
	text, url := caddyfile(t, personSource(p, "crm", grant, options), "log\n"+atCallback(p))
	d.url = url
	d.caddy = harness.Start(t, strings.NewReplacer("CALLBACK", url+callbackPath, "REVOKE", p.RevokeURL()).Replace(text), withSecret(provider.ClientSecret))
	return d
}

// atCallback is a site with the landing page, and the API behind the source.
func atCallback(p *provider.Provider) string {
	return fmt.Sprintf("token_callback %s\n inject_token crm %s", callbackPath, p.API)
}

// personSource is a source of a grant that needs a person.
func personSource(p *provider.Provider, name, grant, options string) string {
	endpoint := "authorize_url " + p.AuthorizeURL()
	if grant == "device_code" {
		endpoint = "device_url " + p.DeviceURL()
	}
	return fmt.Sprintf(`source %s {
			grant %s
			%s
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/secret}
			scope read write
			%s
		}
		`, name, grant, endpoint, p.TokenURL(), provider.ClientID, options)
}

// terminal runs caddy token-source in a terminal, and pipes with pipes; run
// does that to its end, and returns what it wrote.
func (d *desk) terminal(args ...string) *terminal.Session {
	d.t.Helper()
	return d.note(terminal.Start(d.t, harness.Command(d.t, d.caddy.Dir, d.command(args)...)))
}

func (d *desk) pipes(args ...string) *terminal.Session {
	d.t.Helper()
	return d.note(terminal.StartPiped(d.t, harness.Command(d.t, d.caddy.Dir, d.command(args)...)))
}

func (d *desk) run(args ...string) (output string, code int) {
	d.t.Helper()
	s := d.pipes(args...)
	s.Close()
	code = s.ExitCode()
	return s.Screen(), code
}

func (d *desk) command(args []string) []string {
	args = append([]string{"token-source"}, args...)
	if !slices.Contains(args, "--address") && !slices.Contains(args, "--config") {
		args = append(args, "--address", d.caddy.Admin)
	}
	return args
}

func (d *desk) note(s *terminal.Session) *terminal.Session {
	d.shown = append(d.shown, s.Raw)
	return s
}

// printedURL is an address on a line of its own.
var printedURL = regexp.MustCompile(`(?m)^  (https?://\S+)$`)

// awaitURL waits for the address that a person is to open, and for the prompt
// below it.
func (d *desk) awaitURL(s *terminal.Session) (address string) {
	d.t.Helper()
	s.Await("Open this address in a browser")
	address = s.AwaitMatch(printedURL)[1]
	if !strings.HasPrefix(address, d.provider.AuthorizeURL()+"?") {
		d.t.Fatalf("the person is to open %s", address)
	}
	s.Await("\n> ")
	return address
}

// land lets the browser go on to where the provider has sent it.
func (d *desk) land(v provider.Visited) (status int, page string) {
	d.t.Helper()
	if v.Location == "" {
		d.t.Fatalf("the provider sends the browser nowhere: %+v", v)
	}
	resp, page := harness.Get(d.t, v.Location)
	return resp.StatusCode, page
}

// assertEnd waits for the end of a command.
func assertEnd(t *testing.T, s *terminal.Session, code int, shown ...string) {
	t.Helper()
	if got := s.ExitCode(); got != code {
		t.Errorf("ended with %d, want %d", got, code)
	}
	for _, text := range shown {
		if !strings.Contains(s.Screen(), text) {
			t.Errorf("does not show %q:\n%s", text, s.Screen())
		}
	}
}

// assertSaid is assertEnd for a command that was run to its end. Letter case
// does not matter.
func assertSaid(t *testing.T, output string, got, want int, words ...string) {
	t.Helper()
	if got != want {
		t.Errorf("ended with %d, want %d:\n%s", got, want, output)
	}
	for _, text := range words {
		if !strings.Contains(strings.ToLower(output), strings.ToLower(text)) {
			t.Errorf("does not say %q:\n%s", text, output)
		}
	}
}

// sourceStatus is what the admin API and --json tell of a source.
type sourceStatus struct {
	Name, Grant, Provider, State string
	HasToken                     bool `json:"has_token"`
	Refreshable                  bool
	Scopes                       []string
	Issued, Expires              string
	Error                        *struct{ Code, Message string }
	Authorize                    string
}

func (d *desk) status() (s sourceStatus) {
	d.t.Helper()
	text := d.caddy.AdminGet("/token_sources/crm")
	if err := json.Unmarshal([]byte(text), &s); err != nil || s.Name != "crm" {
		d.t.Fatalf("the status of crm is %s: %v", text, err)
	}
	return s
}

func (d *desk) assertServed() {
	d.t.Helper()
	if resp, body := harness.Get(d.t, d.url+"/data"); resp.StatusCode != http.StatusOK {
		d.t.Errorf("a caller is answered %d %s", resp.StatusCode, body)
	}
}

func (d *desk) assertNeedsPerson() {
	d.t.Helper()
	// It is known when the storage has been read.
	d.caddy.Eventually(10*time.Second, "the source needs authorization", func() bool { return d.status().State == "needs_authorization" })
	if d.status().HasToken {
		d.t.Error("a source that needs authorization has a token")
	}
	resp, body := harness.Get(d.t, d.url+"/data")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "caddy token-source authorize crm") {
		d.t.Errorf("a caller is answered %d %s", resp.StatusCode, body)
	}
}

// authorize lets the person authorize the source, by the callback.
func (d *desk) authorize() {
	d.t.Helper()
	s := d.terminal("authorize", "crm")
	if status, page := d.land(d.provider.Visit(d.awaitURL(s))); status != http.StatusOK {
		d.t.Fatalf("the callback is answered %d %s", status, page)
	}
	assertEnd(d.t, s, 0, "Authorized: crm")
}

// assertHidden looks for everything that is secret in what commands wrote and
// Caddy logged.
func (d *desk) assertHidden() {
	d.t.Helper()
	secret, once := new(canary.Nest), new(canary.Nest)
	for _, token := range d.provider.IssuedTokens() {
		kind, random, _ := strings.Cut(token, "-")
		secret.Add("an issued "+kind+" token", random)
	}
	for _, r := range d.provider.Requests() {
		if verifier := r.Form.Get("code_verifier"); verifier != "" {
			secret.Add("a code_verifier", verifier)
		}
		if code, found := strings.CutPrefix(r.Form.Get("device_code"), "device-"); found {
			secret.Add("a device code", code)
		}
	}
	for _, v := range d.provider.Authorizations() {
		if _, random, found := strings.Cut(v.Code, "-"); found {
			once.Add("an authorization code", random)
		}
		if state := v.Query.Get("state"); state != "" {
			once.Add("a state", state)
		}
	}
	log := d.caddy.Log()
	texts := []string{log}
	for _, shown := range d.shown {
		texts = append(texts, shown())
	}
	for _, text := range texts {
		if strings.Contains(text, provider.ClientSecret) {
			d.t.Errorf("the client's secret stands in %s", text)
		}
		if found := secret.Find(text); len(found) > 0 {
			d.t.Errorf("%q stand in %s", found, text)
		}
	}
	if found := once.Find(log); len(found) > 0 {
		d.t.Errorf("%q stand in the log", found)
	}
}

// storedAnywhere says whether a text stands in any file of Caddy's storage.
func (d *desk) storedAnywhere(text string) (found bool) {
	d.t.Helper()
	err := filepath.WalkDir(filepath.Join(d.caddy.Dir, "data"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return ignoreMissing(err)
		}
		content, err := os.ReadFile(path)
		found = found || strings.Contains(string(content), text)
		return ignoreMissing(err)
	})
	if err != nil {
		d.t.Error(err)
	}
	return found
}
