package caddy_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// recipe is one of the README's, run as it stands there: only the addresses,
// the identifiers and the paths of secrets are those of the test.
type recipe struct {
	name     string
	heading  string // in the README
	dialect  provider.Dialect
	hosts    string // what stands for the provider and the API
	lifetime time.Duration
	rotate   bool

	renewedBy string   // the grant of the second token request and those after it
	replace   []string // further replacements in the Caddyfile
	wrong     string   // the file whose secret is spoiled to have a wrong one
	code      string   // the error code of a wrong secret
}

var recipes = []recipe{
	{
		name: "affinitylive", heading: "### AffinityLive, with a refresh token", dialect: provider.AffinityLive, hosts: "https://hq.affinitylive.example",
		renewedBy: "refresh_token",
		lifetime:  6 * time.Second, rotate: true,
		replace: []string{"34ad67fa2f@hq.affinitylive.example", provider.ClientID},
		wrong:   "affinitylive", code: "invalid_client",
	},
	{
		name: "affinitylive by query", heading: "### AffinityLive, with a refresh token", dialect: provider.AffinityLive, hosts: "https://hq.affinitylive.example",
		renewedBy: "refresh_token",
		lifetime:  6 * time.Second, rotate: true,
		replace: []string{
			"34ad67fa2f@hq.affinitylive.example", provider.ClientID,
			"grant refresh_token", "grant refresh_token\n\t\t\tclient_auth client_secret_query",
			"header Authorization", "query _bearer_token",
		},
		wrong: "affinitylive", code: "invalid_client",
	},
	{
		name: "organization", heading: "### Organization API", dialect: provider.Organization, hosts: "https://organization.example",
		renewedBy: "refresh_token",
		lifetime:  6 * time.Second, rotate: true,
		replace: []string{"clientId", provider.ClientID},
		wrong:   "organization", code: "invalid_client",
	},
	{
		name: "organization by query", heading: "### Organization API", dialect: provider.Organization, hosts: "https://organization.example",
		renewedBy: "refresh_token",
		lifetime:  6 * time.Second, rotate: true,
		replace: []string{
			"clientId", provider.ClientID,
			"grant client_credentials", "grant client_credentials\n\t\t\tclient_auth client_secret_post\n\t\t\ttoken_request POST query",
		},
		wrong: "organization", code: "invalid_client",
	},
	{
		name: "configapi", heading: "### ConfigAPI", dialect: provider.ConfigAPI, hosts: "https://config.example",
		renewedBy: "client_credentials",
		lifetime:  6 * time.Second,
		replace:   []string{"login-id", provider.ClientID},
		wrong:     "configapi", code: "invalid_client",
	},
	{
		name: "axosoft", heading: "### Axosoft", dialect: provider.Axosoft, hosts: "https://example.axosoft.com",
		renewedBy: "password",
		replace:   []string{"client-id", provider.ClientID, "username reports", "username " + provider.Username, "30d", "3s"},
		wrong:     "axosoft-password", code: "invalid_grant",
	},
}

// start runs a recipe before a provider. The secrets are in the folder of
// Caddy; spoiled is the file that holds a wrong one.
func (r recipe) start(t *testing.T, p *provider.Provider, spoiled string) (*harness.Caddy, string) {
	t.Helper()
	text, _, found := strings.Cut(readmeBlocksAfter(t, r.heading), "\n```")
	if !found {
		t.Fatalf("the README has no Caddyfile under %q", r.heading)
	}
	address := "http://127.0.0.1:" + itoa(harness.Port(t))
	for _, pair := range [][2]string{
		{r.hosts + r.dialect.Path, p.TokenURL()},
		{r.hosts, p.API},
		{"http://127.0.0.1:8080", address},
		{"/run/secrets", "{{dir}}"},
		{"{\n\ttoken_sources", "{\n\t{{globals}}\n\ttoken_sources"},
	} {
		if !strings.Contains(text, pair[0]) {
			t.Fatalf("the README's Caddyfile holds no %q", pair[0])
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	text = strings.NewReplacer(r.replace...).Replace(text)
	secrets := map[string]string{
		"affinitylive": provider.ClientSecret, "organization": provider.ClientSecret, "configapi": provider.ClientSecret,
		"axosoft-client": provider.ClientSecret, "axosoft-password": provider.Password,
		"affinitylive-refresh-token": p.IssueRefreshToken(),
	}
	if spoiled != "" {
		secrets[spoiled] += "-wrong"
	}
	var options []harness.Option
	for name, secret := range secrets {
		options = append(options, harness.File(name, secret+"\n"))
	}
	return harness.Start(t, text, options...), address
}

func TestTheFourProvidersServeCallersWhoKnowNoCredentials(t *testing.T) {
	for _, r := range recipes {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			p := provider.New(t, r.dialect)
			p.Set(func(k *provider.Knobs) { k.Lifetime, k.Rotate = r.lifetime, r.rotate })
			c, url := r.start(t, p, "")

			status := func() int {
				resp, _ := harness.Get(t, url+"/data?x=1")
				return resp.StatusCode
			}
			if got := status(); got != http.StatusOK {
				t.Fatalf("the first request was answered %d", got)
			}

			// Renewal: tokens live six seconds, and nobody sees them go.
			first := p.Count()
			c.Eventually(30*time.Second, "the token has been renewed twice", func() bool {
				if got := status(); got != http.StatusOK {
					t.Fatalf("a request was answered %d while tokens were renewed", got)
				}
				return p.Count() >= first+2
			})
			for i, request := range p.Requests()[1:] {
				grant := request.Form.Get("grant_type") + request.URL.Query().Get("grant_type")
				if want := r.renewedBy; grant != want {
					t.Errorf("renewal %d was by the grant %q, not %q", i+1, grant, want)
				}
			}
			if n := len(p.ExpiredSeen()); n != 0 {
				t.Errorf("%d requests came to the API with an expired token", n)
			}
			p.AssertStrict()
			if n := p.Reused(); n != 0 {
				t.Errorf("a refresh token was spent twice, %d times", n)
			}
		})
	}
}

func TestTheClientCredentialsTakeOverWhereTheRefreshTokenIsDead(t *testing.T) {
	t.Parallel()
	i := slices.IndexFunc(recipes, func(r recipe) bool { return r.name == "organization" })
	p := provider.New(t, recipes[i].dialect)
	p.Set(func(k *provider.Knobs) { k.Lifetime, k.Rotate = time.Hour, true })
	c, url := recipes[i].start(t, p, "")
	harness.Get(t, url)
	p.RevokeRefreshTokens()
	p.Revoke()
	harness.Get(t, url)
	c.Eventually(20*time.Second, "callers are served again", func() bool {
		resp, _ := harness.Get(t, url)
		return resp.StatusCode == http.StatusOK
	})
	var grants []string
	for _, request := range p.Requests() {
		grants = append(grants, request.Form.Get("grant_type"))
	}
	if want := []string{"client_credentials", "refresh_token", "client_credentials"}; !slices.Equal(grants, want) {
		t.Errorf("the grants were %v, want %v", grants, want)
	}
}

func TestAWrongSecretIsSentOnceAndNeverHammered(t *testing.T) {
	for _, r := range recipes {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			p := provider.New(t, r.dialect)
			c, url := r.start(t, p, r.wrong)
			c.WaitLog("not tried again")
			for end := time.Now().Add(12 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				resp, body := harness.Get(t, url+"/data")
				if resp.StatusCode != http.StatusBadGateway {
					t.Fatalf("answered %d %q, want 502", resp.StatusCode, body)
				}
				if got := resp.Header.Get("Proxy-Status"); !strings.Contains(got, r.code) {
					t.Fatalf("Proxy-Status is %q, without %s", got, r.code)
				}
				if got := resp.Header.Get("Cache-Control"); got != "no-store" {
					t.Fatalf("Cache-Control is %q", got)
				}
			}
			if n := p.Count(); n > 2 {
				t.Errorf("%d token requests with a wrong secret", n)
			}
			if n := len(p.APIRequests()); n != 0 {
				t.Errorf("%d requests came to the API without a token", n)
			}
			p.AssertStrict()
		})
	}
}
