package caddy_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// presetSources are the sources of the four documents, by their entries of the
// built-in list: what is left to write, and the address of the test.
var presetSources = []struct {
	preset   string
	dialect  provider.Dialect
	options  string
	site     string
	lifetime time.Duration
}{
	{"accelo", provider.AffinityLive, "provider accelo {\n host hq.api.accelo.com\n}\n grant refresh_token\n refresh_token {file.{{dir}}/refresh-token}", "", 6 * time.Second},
	{"accelo by query", provider.AffinityLive, "provider accelo {\n host hq.api.accelo.com\n}\n grant refresh_token\n refresh_token {file.{{dir}}/refresh-token}\n client_auth client_secret_query", "{\n query _bearer_token\n}", 6 * time.Second},
	{"blynk", provider.Organization, "provider blynk {\n host fra1.blynk.cloud\n}", "", 6 * time.Second},
	{"blynk by query", provider.Organization, "provider blynk {\n host fra1.blynk.cloud\n}\n client_auth client_secret_post\n token_request POST query", "", 6 * time.Second},
	{"brightpattern", provider.ConfigAPI, "provider brightpattern {\n host acme.brightpattern.com\n tenant example.com\n}", "", 6 * time.Second},
	{"axosoft", provider.Axosoft, "provider axosoft {\n host acme.axosoft.com\n}\n username " + provider.Username + "\n password {file.{{dir}}/password}\n scope read write\n default_lifetime 3s", "", 0},
}

func TestTheFourDocumentsWorkByTheirEntriesOfTheBuiltInList(t *testing.T) {
	for _, c := range presetSources {
		t.Run(c.preset, func(t *testing.T) {
			t.Parallel()
			p := provider.New(t, c.dialect)
			p.Set(func(k *provider.Knobs) { k.Lifetime, k.Rotate = c.lifetime, c.lifetime > 0 })
			source := "source crm {\n " + c.options + "\n client_id " + provider.ClientID + "\n client_secret {file.{{dir}}/secret}\n token_url " + p.TokenURL() + "\n}"
			text, url := caddyfile(t, source, "inject_token crm "+p.API+" "+c.site)
			caddy := harness.Start(t, text, withSecret(provider.ClientSecret),
				harness.File("refresh-token", p.IssueRefreshToken()), harness.File("password", provider.Password))

			status := func() int {
				resp, _ := harness.Get(t, url+"/data?x=1")
				return resp.StatusCode
			}
			if got := status(); got != http.StatusOK {
				t.Fatalf("the first request was answered %d", got)
			}
			first := p.Count()
			caddy.Eventually(30*time.Second, "the token has been renewed", func() bool {
				if got := status(); got != http.StatusOK {
					t.Fatalf("a request was answered %d while tokens were renewed", got)
				}
				return p.Count() > first
			})
			if n := len(p.ExpiredSeen()); n != 0 {
				t.Errorf("%d requests came to the API with an expired token", n)
			}
			p.AssertStrict()
		})
	}
}

// TestAPINAuthorizesByTheEntryOfTheBuiltInList is AffinityLive's document from its
// beginning: a person reads a PIN off a page.
func TestAPINAuthorizesByTheEntryOfTheBuiltInList(t *testing.T) {
	t.Parallel()
	a := newPIN(t, "")
	a.options = "provider accelo {\n host hq.api.accelo.com\n}"
	a = a.withPINScope().start()
	begun := a.begin()
	a.assertPINAddress(begun)
	_, qr := provider.ReadPIN(t, begun.URL)
	got, result := a.complete(begun.ID, qr)
	if got.status != http.StatusOK || result.Status != "granted" {
		t.Fatalf("completed: %d %s", got.status, got.body)
	}
	a.assertServesBothWays("after the PIN")
	a.p.AssertStrict()
}

func TestTheTokenGoesWhereTheEntrysAPITakesItAndTheUserHasTheLastWord(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ site, field, want string }{
		{"", "X-Shopify-Access-Token", ""},
		{"{\n header X-Own \"Key {token}\"\n}", "X-Own", "Key "},
	} {
		p := provider.New(t, provider.Dialect{})
		source := "source shop {\n provider shopify {\n shop acme\n}\n client_id " + provider.ClientID +
			"\n client_secret {file.{{dir}}/secret}\n client_auth client_secret_basic\n token_url " + p.TokenURL() + "\n}"
		echo := "respond {header." + c.field + "}|{header.Authorization}"
		upstream := "127.0.0.1:" + itoa(harness.Port(t))
		text, url := caddyfile(t, source, "inject_token shop http://"+upstream+" "+c.site)
		text += "http://" + upstream + " {\n bind 127.0.0.1\n " + echo + "\n}\n"
		caddy := harness.Start(t, text, withSecret(provider.ClientSecret))
		caddy.WaitLog("token obtained")
		_, body := harness.Get(t, url+"/")
		value, authorization, _ := strings.Cut(body, "|")
		if authorization != "" || !strings.HasPrefix(value, c.want) || len(value) <= len(c.want) {
			t.Errorf("%s holds %q, Authorization %q", c.field, value, authorization)
		}
	}
}

func TestTheListOfProvidersIsReadByPersonsAndPrograms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	output, code := harness.Run(t, dir, "token-source", "providers")
	assertSaid(t, output, code, 0, "Identity providers, by tenant", "salesforce", "Salesforce", "keycloak")
	if strings.Index(output, "salesforce") > strings.Index(output, "keycloak") {
		t.Error("the list is not by category")
	}

	var list []struct {
		Name, Title, Category string
		Documentation, Grants []string
		Caddyfile             string
		Source                map[string]any
	}
	if err := json.Unmarshal([]byte(harness.Output(t, dir, "token-source", "providers", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.Name == "" || p.Title == "" || p.Category == "" || len(p.Documentation) == 0 || len(p.Grants) == 0 || p.Caddyfile == "" || p.Source["grant"] != p.Grants[0] {
			t.Errorf("something is missing of %+v", p)
		}
		if !strings.Contains(output, p.Title) {
			t.Errorf("%s stands in the JSON alone", p.Name)
		}
	}
	if len(list) < 70 {
		t.Errorf("there are %d providers", len(list))
	}
}

func TestOneProviderIsExplainedWithACaddyfileThatWorks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, words := range map[string][]string{
		"salesforce":             {"My Domain", "https://{domain}/services/oauth2/token", "authorization_code, client_credentials", "https://help.salesforce.com/"},
		"axosoft":                {"token_request GET query", "does not say how long a token lives"},
		"google-service-account": {"jwt_bearer", "{file./run/secrets/google-service-account.json}"},
		"wechat":                 {"grant custom", "error errcode 0"},
		"github":                 {"default github.com"},
		"shopify":                {"Its API takes the token here", "header X-Shopify-Access-Token"},
	} {
		output, code := harness.Run(t, dir, "token-source", "providers", name)
		assertSaid(t, output, code, 0, words...)
		_, text, found := strings.Cut(output, "A Caddyfile to begin with:\n\n")
		if !found {
			t.Fatalf("%s: there is no Caddyfile in\n%s", name, output)
		}
		harness.WriteFile(t, dir, "Caddyfile", text)
		if out, code := harness.Run(t, dir, "validate", "--config", "Caddyfile"); code != 0 {
			t.Errorf("%s: its Caddyfile is not valid:\n%s\n%s", name, out, text)
		}
	}
	output, code := harness.Run(t, dir, "token-source", "providers", "salesfroce")
	assertSaid(t, output, code, 1, "did you mean salesforce?")
	var one struct{ Name, Caddyfile string }
	if err := json.Unmarshal([]byte(harness.Output(t, dir, "token-source", "providers", "okta", "--json")), &one); err != nil || one.Name != "okta" || !strings.Contains(one.Caddyfile, "provider okta") {
		t.Errorf("%v: %+v", err, one)
	}
}
