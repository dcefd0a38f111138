package caddy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// askers are the commands that ask a running Caddy.
var askers = [][]string{{"list"}, {"list", "--json"}, {"show", "crm"}, {"authorize", "crm"}, {"refresh", "crm"}, {"revoke", "crm"}}

// runAt runs a command in an empty folder, with variables in its environment.
func runAt(t *testing.T, env []string, args ...string) (output string, code int) {
	t.Helper()
	return harness.RunExecutable(t, harness.Binary(t), t.TempDir(), env, append([]string{"token-source"}, args...)...)
}

func TestWithoutACaddyThatRunsCommandsSaySo(t *testing.T) {
	t.Parallel()
	address := "127.0.0.1:" + itoa(harness.Port(t))
	for _, args := range askers {
		for _, at := range []string{address, "http://" + address, "https://" + address, "unix/" + filepath.Join(t.TempDir(), "none.sock")} {
			output, code := runAt(t, nil, append(args, "--address", at)...)
			assertSaid(t, output, code, 1, "running", strings.TrimPrefix(at, "unix/"))
			assertSentences(t, output)
		}
	}
}

func TestAnotherServerIsNotTakenForCaddy(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.HandlerFunc{
		"404":    http.NotFound,
		"a page": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<!doctype html><title>Router</title>") },
		"a list of something else": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"hello": [1]}`)
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		s := httptest.NewServer(handler)
		closeAtEnd(t, s)
		for _, args := range askers {
			output, code := runAt(t, nil, append(args, "--address", strings.TrimPrefix(s.URL, "http://"))...)
			if code != 1 {
				t.Errorf("%s: %v ended with %d:\n%s", name, args, code, output)
			}
			assertSentences(t, output)
		}
	}
}

func TestACaddyWithoutTokenSourcesHasNone(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, "{\n\t{{globals}}\n}\n")
	output, code := runAt(t, nil, "list", "--address", c.Admin)
	assertSaid(t, output, code, 0, "no token sources")
	output, code = runAt(t, nil, "list", "--json", "--address", c.Admin)
	assertSaid(t, output, code, 0, "[]")
	output, code = runAt(t, nil, "show", "crm", "--address", c.Admin)
	assertSaid(t, output, code, 1, "crm", "there are none")
}

// TestTheAddressIsFoundAsCaddysOwnCommandsFindIt gives it in each way that
// `caddy reload` knows.
func TestTheAddressIsFoundAsCaddysOwnCommandsFindIt(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", withCallback)
	file := filepath.Join(d.caddy.Dir, "Caddyfile")
	for name, c := range map[string]struct{ env, args []string }{
		"--address":                 {nil, []string{"--address", d.caddy.Admin}},
		"--address with http://":    {nil, []string{"--address", "http://" + d.caddy.Admin}},
		"--config":                  {nil, []string{"--config", file}},
		"--config and --adapter":    {nil, []string{"--config", file, "--adapter", "caddyfile"}},
		"--address before --config": {nil, []string{"--address", d.caddy.Admin, "--config", "/none"}},
		"the environment":           {[]string{"CADDY_ADMIN=" + d.caddy.Admin}, nil},
	} {
		output, code := runAt(t, c.env, append([]string{"list"}, c.args...)...)
		t.Log(name)
		assertSaid(t, output, code, 0, "crm", "needs_authorization")
	}
	output, code := runAt(t, nil, "list", "--config", "/none/Caddyfile")
	assertSaid(t, output, code, 1, "/none/Caddyfile")
}

func TestTheAdminAPIMayBeASocket(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Offline = true })
	path := socket(t)
	text, url := caddyfile(t, personSource(p, "crm", "authorization_code", "redirect_uri CALLBACK"), atCallback(p))
	text = strings.NewReplacer("{{globals}}", "admin unix/"+path+"\n\tauto_https off\n\tdebug", "CALLBACK", url+callbackPath).Replace(text)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.Admin = "unix/" + path
	d := &desk{t: t, provider: p, caddy: c, url: url}
	output, code := d.run("list")
	assertSaid(t, output, code, 0, "crm", "needs_authorization")
	d.terminalAuthorize()
	d.assertServed()
	output, code = d.run("show", "crm")
	assertSaid(t, output, code, 0, "fresh")
	d.assertHidden()
}

// terminalAuthorize lets the person authorize by a code that they paste.
func (d *desk) terminalAuthorize() {
	d.t.Helper()
	s := d.terminal("authorize", "crm")
	s.Type(d.provider.Visit(d.awaitURL(s)).Location)
	assertEnd(d.t, s, 0, "Authorized: crm")
}

func TestAdminAddressesThatAreNoneAreSaidSo(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:70000", "127.0.0.1:2019-2021", "http://", "ftp://127.0.0.1:2019", "https://127.0.0.1:1/path"} {
		output, code := runAt(t, nil, "list", "--address", address)
		if code != 1 || !strings.Contains(output, "address") {
			t.Errorf("--address %s ended with %d:\n%s", address, code, output)
		}
		assertSentences(t, output)
	}
}
