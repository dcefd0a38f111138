package caddy_test

import (
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// readmeBlocksAfter returns the README from the first Caddyfile after a
// heading on.
func readmeBlocksAfter(t *testing.T, heading string) string {
	t.Helper()
	_, after, found := strings.Cut(harness.ReadRepositoryFile(t, "README.md"), "\n"+heading)
	if !found {
		t.Fatalf("the README has no heading %q", heading)
	}
	_, after, found = strings.Cut(after, "```caddyfile\n")
	if !found {
		t.Fatalf("the README has no Caddyfile after %q", heading)
	}
	return after
}

var readmeCaddyfile = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")

func TestEveryCaddyfileOfTheREADMEIsValidAndFormatted(t *testing.T) {
	t.Parallel()
	readme := harness.ReadRepositoryFile(t, "README.md")
	blocks := readmeCaddyfile.FindAllStringSubmatch(readme, -1)
	if len(blocks) < 9 {
		t.Fatalf("the README has %d Caddyfiles", len(blocks))
	}
	dir := t.TempDir()
	for _, block := range blocks {
		line := 1 + strings.Count(readme[:strings.Index(readme, block[1])], "\n")
		harness.WriteFile(t, dir, "Caddyfile", block[1])
		if out, code := harness.Run(t, dir, "validate", "--config", "Caddyfile"); code != 0 {
			t.Errorf("the Caddyfile at line %d of the README is not valid:\n%s", line, out)
		}
		if out, code := harness.Run(t, dir, "fmt", "Caddyfile"); code != 0 || out != block[1] {
			t.Errorf("caddy fmt would change the Caddyfile at line %d of the README to:\n%s", line, out)
		}
	}
}

// optionsAfter returns the options that stand in the table after a heading.
func optionsAfter(t *testing.T, heading string) (names []string) {
	t.Helper()
	_, section, found := strings.Cut(harness.ReadRepositoryFile(t, "README.md"), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("the README has no heading %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \| `).FindAllStringSubmatch(section, -1) {
		for _, name := range regexp.MustCompile("`([a-z_]+)[^`]*`").FindAllStringSubmatch(row[1], -1) {
			names = append(names, name[1])
		}
	}
	return names
}

// optionsThatThereAre returns those that an error lists, in a block.
func optionsThatThereAre(t *testing.T, before, after string) []string {
	t.Helper()
	dir := t.TempDir()
	harness.WriteFile(t, dir, "Caddyfile", before+"\nxyzzy 1\n"+after)
	out, code := harness.Run(t, dir, "adapt", "--config", "Caddyfile")
	_, list, found := strings.Cut(out, "there are: ")
	if code == 0 || !found {
		t.Fatalf("an unknown option was answered %d %s", code, out)
	}
	list, _, _ = strings.Cut(list, ", at ")
	return strings.Split(list, ", ")
}

func TestTheOptionsOfTheREADMEAreThoseThatThereAre(t *testing.T) {
	t.Parallel()
	const source = "{\ntoken_sources {\nsource crm {\ngrant custom\ntoken_url https://auth.example.org\n"
	const site = "}\n}\n}\nlocalhost {\n"
	ofSource := slices.Concat(
		optionsThatThereAre(t, source, "}\n}\n}"),
		optionsThatThereAre(t, source+"token_response {", "}\n}\n}\n}"),
		slices.DeleteFunc(optionsThatThereAre(t, source+"refresh_request {", "}\n}\n}\n}"), func(name string) bool {
			return name == "header" || name == "url" // told in the rows of the requests
		}),
	)
	ofTransport := optionsThatThereAre(t, source+site+"reverse_proxy https://a.example.org {\ntransport inject_token crm {", "}\n}\n}")
	ofTransport = slices.DeleteFunc(ofTransport, func(name string) bool { return name == "http" }) // told below the table
	for heading, want := range map[string][]string{"Options of a source": ofSource, "Options of `inject_token`": ofTransport} {
		got := optionsAfter(t, heading)
		slices.Sort(got)
		slices.Sort(want)
		if got, want := slices.Compact(got), slices.Compact(want); !slices.Equal(got, want) {
			t.Errorf("%s: the README has %q, and there are %q", heading, got, want)
		}
	}
}

func TestTheREADMEsGuardedSiteLetsInWhoMayAndNothingElse(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	text, _, _ := strings.Cut(readmeBlocksAfter(t, "## Not an open door"), "```")
	address := "http://127.0.0.1:" + itoa(harness.Port(t))
	hash := strings.TrimSpace(harness.Output(t, t.TempDir(), "hash-password", "--plaintext", "hiccup"))
	c := harness.Start(t, strings.NewReplacer(
		"{\n\ttoken_sources", "{\n\t{{globals}}\n\ttoken_sources",
		"https://auth.example.org/oauth2/token", p.TokenURL(), "https://api.example.org", p.API,
		"/run/secrets/crm", "{{dir}}/secret", "https://crm.internal.example.org", address,
		"10.20.0.0/16", "127.0.0.2/32", "$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG", hash,
	).Replace(text), withSecret(provider.ClientSecret))
	c.Eventually(20*time.Second, "there is a token", func() bool { return p.Count() == 1 })

	ask := func(from, path string, login bool) int {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
		req, err := http.NewRequest(http.MethodGet, address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if login {
			req.SetBasicAuth("reports", "hiccup")
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return 0 // the connection was cut
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		from, path string
		login      bool
		want       int
	}{
		{"127.0.0.2", "/v2/orders/7", true, http.StatusOK},
		{"127.0.0.2", "/v2/orders/7", false, http.StatusUnauthorized},
		{"127.0.0.2", "/oauth2/revoke", true, http.StatusForbidden},
		{"127.0.0.1", "/v2/orders/7", true, 0},
	} {
		if got := ask(c.from, c.path, c.login); got != c.want {
			t.Errorf("from %s, %s, with a login: %v: answered %d, want %d", c.from, c.path, c.login, got, c.want)
		}
	}
	if n := len(p.APIRequests()); n != 1 {
		t.Errorf("%d requests came to the API", n)
	}
}
