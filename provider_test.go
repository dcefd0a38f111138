package injecttoken

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// entryOf is an entry of the list whose source holds these options.
func entryOf(t *testing.T, options string) *preset {
	t.Helper()
	list, err := parsePresets([]byte("demo {\n\tvalue host \"a host, such as a.example.org\"\n\tvalue realm \"a realm\" main\n\tsource {\n" + options + "\n\t}\n}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return list["demo"]
}

// readSource is a source as a user writes it in a Caddyfile.
func readSource(t *testing.T, options string) *Source {
	t.Helper()
	tokens, err := caddyfile.Tokenize([]byte("source {\n"+options+"\n}"), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	s := &Source{Provider: &Provider{Name: "demo", Values: map[string]string{"host": "b.example.org"}}}
	if err := newOptionReader(d, "source").options(sourceOptions, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatAUserWritesGoesBeforeWhatTheProvidersEntrySays(t *testing.T) {
	for _, c := range []struct{ title, entry, own, want string }{
		{
			"values stand in the entry's texts",
			"grant client_credentials\ntoken_url https://{host}/{realm}/token\nparam tenant {host}\nclient_id x", "",
			"grant client_credentials\ntoken_url https://b.example.org/main/token\nparam tenant b.example.org\nclient_id x",
		},
		{
			"but not in the user's own",
			"grant client_credentials\ntoken_url https://{host}/token", "client_id a\nclient_secret {host}",
			"grant client_credentials\ntoken_url https://b.example.org/token\nclient_id a\nclient_secret {host}",
		},
		{
			"an option that is written replaces the entry's",
			"grant client_credentials\ntoken_url https://a.example.org/token\ntimeout 3s\nscope a b\nrefresh_at 50%",
			"token_url https://b.example.org\ntimeout 20s\nscope c\nrefresh_at 70%",
			"grant client_credentials\ntoken_url https://b.example.org\ntimeout 20s\nscope c\nrefresh_at 70%",
		},
		{
			"parameters and header fields add up by name",
			"grant client_credentials\nparam a 1\nparam b 2\ntoken_request POST {\nheader X-A 1\nheader X-B 2\nparam c 3\n}",
			"param b 3\nparam d 4\ntoken_request {\nheader x-b 4\nparam c 5\n}",
			"grant client_credentials\nparam a 1\nparam b 3\nparam d 4\ntoken_request POST {\nheader X-A 1\nheader x-b 4\nparam c 5\n}",
		},
		{
			"parameters of the authorization as well",
			"grant authorization_code\nauthorize_param access_type offline\nauthorize_param prompt consent", "authorize_param prompt login\nauthorize_param hd example.org",
			"grant authorization_code\nauthorize_param access_type offline\nauthorize_param prompt login\nauthorize_param hd example.org",
		},
		{
			"a parameter of the entry can be left out",
			"grant client_credentials\nparam a 1", "param -a",
			"grant client_credentials\nparam -a",
		},
		{
			"paths of the answer one by one, each with all of its arguments",
			"grant client_credentials\ntoken_response {\naccess_token data.token\nexpires_in data.ttl ms\nerror ok true\n}",
			"token_response {\nexpires_in ttl\nerror status\n}",
			"grant client_credentials\ntoken_response {\naccess_token data.token\nexpires_in ttl\nerror status\n}",
		},
		{
			"a method in the place of an encoding",
			"grant client_credentials\ntoken_request POST json", "token_request GET",
			"grant client_credentials\ntoken_request GET",
		},
		{
			"an encoding in the place of a method",
			"grant client_credentials\ntoken_request GET", "token_request form",
			"grant client_credentials\ntoken_request form",
		},
		{
			"header fields leave the method alone",
			"grant client_credentials\ntoken_request GET", "token_request {\nheader X-A 1\n}",
			"grant client_credentials\ntoken_request GET {\nheader X-A 1\n}",
		},
		{
			"raw belongs to the method that is written",
			"grant client_credentials\nclient_auth client_secret_basic raw", "client_secret x\nclient_auth client_secret_post",
			"grant client_credentials\nclient_secret x\nclient_auth client_secret_post",
		},
		{
			"another grant leaves out what it has no use for",
			"grant authorization_code\nauthorize_url https://{host}/a\ndevice_url https://{host}/d\ntoken_url https://{host}/t\nauthorize_param a b\npkce off\ncode_field 3 ;\nscope_separator ,\ntoken_request POST {\nparam a 1\nheader X-A 1\n}",
			"grant refresh_token\nrefresh_token x",
			"grant refresh_token\nrefresh_token x\ntoken_url https://b.example.org/t\ntoken_request POST {\nheader X-A 1\n}",
		},
		{
			"but what the user wrote stays, so that it can be found",
			"grant authorization_code\nauthorize_url https://{host}/a\npkce off", "grant refresh_token\npkce S256",
			"grant refresh_token\npkce S256",
		},
		{
			"a token endpoint of the user's own goes without addresses that might be another's",
			"grant authorization_code\nauthorize_url https://{host}/a\ntoken_url https://{host}/t\nrevoke_url https://{host}/r\nrefresh_request {\nurl https://{host}/f\nheader X-A 1\n}",
			"token_url https://sandbox.example.org/t",
			"grant authorization_code\nauthorize_url https://b.example.org/a\ntoken_url https://sandbox.example.org/t\nrefresh_request {\nheader X-A 1\n}",
		},
		{
			"an issuer of the user's own says by itself where its endpoints are",
			"grant authorization_code\nauthorize_url https://{host}/a\ntoken_url https://{host}/t\nrevoke_url https://{host}/r\nclient_auth client_secret_post",
			"issuer https://auth.example.org\nclient_secret x\nauthorize_url https://auth.example.org/here",
			"grant authorization_code\nissuer https://auth.example.org\nclient_secret x\nauthorize_url https://auth.example.org/here\nclient_auth client_secret_post",
		},
		{
			"a separator goes with scopes",
			"grant client_credentials\nscope_separator ,", "scope a b",
			"grant client_credentials\nscope_separator ,\nscope a b",
		},
		{
			"a client that a person authorizes may have no secret",
			"grant device_code\nclient_auth client_secret_post", "client_id a",
			"grant device_code\nclient_id a",
		},
		{
			"a client of another grant may not",
			"grant client_credentials\nclient_auth client_secret_post", "client_id a",
			"grant client_credentials\nclient_auth client_secret_post\nclient_id a",
		},
		{
			"a secret beside a provider that expects none",
			"grant device_code\nclient_auth none", "client_secret a",
			"grant device_code\nclient_secret a",
		},
		{
			"numbers, durations and JSON stay what they are",
			"grant client_credentials\ntoken_request POST json\nparam_json a `{\"n\": 12345678901234567890, \"h\": \"{host}\"}`\ndefault_lifetime 720h", "",
			"grant client_credentials\ntoken_request POST json\nparam_json a `{\"h\":\"b.example.org\",\"n\":12345678901234567890}`\ndefault_lifetime 720h",
		},
	} {
		t.Run(c.title, func(t *testing.T) {
			got, m := readSource(t, c.own).filledFrom(entryOf(t, c.entry))
			if m != nil {
				t.Fatal(m)
			}
			want := readSource(t, c.want)
			want.Provider = nil
			if !reflect.DeepEqual(treeOf(got), treeOf(want)) {
				t.Errorf("this came of it:\n%v\nand this was expected:\n%v", treeOf(got), treeOf(want))
			}
		})
	}
}

func TestAValueIsMissedOnlyWhereItIsNeeded(t *testing.T) {
	entry := entryOf(t, "grant client_credentials\ntoken_url https://{host}/token")
	s := readSource(t, "client_id a")
	s.Provider.Values = nil
	if _, m := s.filledFrom(entry); m == nil || !strings.Contains(m.text, "needs the value host: a host, such as a.example.org") {
		t.Errorf("without its value: %v", m)
	}
	s.TokenURL = "https://c.example.org/token"
	if filled, m := s.filledFrom(entry); m != nil || filled.TokenURL != s.TokenURL {
		t.Errorf("with an address of its own: %v", m)
	}
}

func TestASourceIsTheSameWhetherAProviderSaysItOrTheUser(t *testing.T) {
	entry := entryOf(t, "grant client_credentials\ntoken_url https://{host}/token")
	filled, m := readSource(t, "client_id a").filledFrom(entry)
	if m != nil {
		t.Fatal(m)
	}
	key := func(s *Source) poolKey {
		t.Helper()
		k, err := keyOf("crm", s)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key(filled) != key(&Source{Grant: "client_credentials", TokenURL: "https://b.example.org/token", ClientID: "a"}) {
		t.Error("its fingerprint is another one than of the same, written out")
	}
	changed, m := readSource(t, "client_id a").filledFrom(entryOf(t, "grant client_credentials\ntoken_url https://{host}/v2/token"))
	if m != nil || key(filled) == key(changed) {
		t.Errorf("an entry that changed is no other configuration (%v)", m)
	}
}

func TestAWrongProviderInJSONIsRefused(t *testing.T) {
	for _, c := range []struct{ title, provider, want string }{
		{"empty", `{}`, "provider: this provider is not built in"},
		{"unknown", `{"name": "gihub"}`, `provider: no provider is named "gihub"; did you mean github?`},
		{"value missing", `{"name": "shopify"}`, "provider: shopify needs the value shop"},
		{"value empty", `{"name": "shopify", "values": {"shop": ""}}`, "provider shop: letters, digits"},
		{"value unknown", `{"name": "shopify", "values": {"shpo": "acme"}}`, "provider shpo: shopify has no such value; did you mean shop?"},
		{"value with a slash", `{"name": "shopify", "values": {"shop": "a/b"}}`, "provider shop: letters, digits"},
		{"value with a line break", `{"name": "shopify", "values": {"shop": "a\nb"}}`, "provider shop: letters, digits"},
		{"value with a line break at its end", `{"name": "shopify", "values": {"shop": "a\n"}}`, "provider shop: letters, digits"},
		{"value with a request's placeholder", `{"name": "shopify", "values": {"shop": "{http.request.host}"}}`, "provider shop: unknown placeholder"},
		{"value with a port where none can be", `{"name": "shopify", "values": {"shop": "a:1"}}`, "token_url: this is not a URL (with the values of provider shopify)"},
	} {
		t.Run(c.title, func(t *testing.T) {
			source := `{"provider": ` + c.provider + `, "client_id": "a", "client_secret": "CANARY-secret"}`
			got := refusal(t, `{"apps": {"token_sources": {"sources": {"crm": `+source+`}}}}`)
			if !strings.Contains(got, c.want) {
				t.Errorf("refused with %q, without %q", got, c.want)
			}
		})
	}
}

func TestTheConfigurationHoldsTheUsersOwnWords(t *testing.T) {
	adapted, err := adapt("{\ntoken_sources {\nsource shop {\nprovider shopify {\nshop acme\n}\nclient_id a\nclient_secret {env.SHOP}\n}\n}\n}\nlocalhost {\ninject_token shop https://acme.myshopify.com\n}")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(adapted), "myshopify.com/admin") || strings.Contains(string(adapted), "Shopify") {
		t.Errorf("what the entry says stands in there:\n%s", adapted)
	}
	if _, err := validate(adapted); err != nil {
		t.Error(err)
	}
}

// appOf is an app as Provision leaves it, of sources by the provider's places.
func appOf(places map[string]*Transport) *App {
	app := &App{Sources: make(map[string]*Source), filled: make(map[string]*Source)}
	for name, inject := range places {
		app.Sources[name] = new(Source)
		app.filled[name] = &Source{inject: inject}
	}
	return app
}

func TestTheTokenGoesWhereTheProviderWantsIt(t *testing.T) {
	field := &Transport{Headers: []HeaderInjection{{Field: "X-Token"}}}
	query := &Transport{Query: []string{"auth"}}
	app := appOf(map[string]*Transport{"field": field, "field-2": field, "query": query, "usual": nil})
	for _, c := range []struct{ transport, want string }{
		{`{"source": "field"}`, "fields [X-Token], params []"},
		{`{"source": "query"}`, "fields [], params [auth]"},
		{`{"source": "usual"}`, "fields [Authorization], params []"},
		{`{"source": "query", "headers": [{"field": "X-Own"}]}`, "fields [X-Own], params []"},
		{`{"source": "field", "query": ["own"]}`, "fields [], params [own]"},
		{`{"source": "field", "upstream_sources": {"a:1": "field-2"}}`, "fields [X-Token], params []"},
		{`{"source": "{http.vars.t}", "sources": ["field*"]}`, "fields [X-Token], params []"},
		{`{"source": "field", "upstream_sources": {"a:1": "query"}}`, "error [field query]"},
		{`{"source": "field", "upstream_sources": {"a:1": "usual"}}`, "error [field usual]"},
		{`{"source": "{http.vars.t}", "sources": ["*"]}`, "error [field query]"},
		{`{"source": "{http.vars.t}", "sources": ["*"], "query": ["own"]}`, "fields [], params [own]"},
	} {
		var transport Transport
		if err := json.Unmarshal([]byte(c.transport), &transport); err != nil {
			t.Fatal(err)
		}
		in, m := transport.newInjection(app.filled)
		got := ""
		if m != nil {
			names := regexp.MustCompile(`sources (\S+) and (\S+) want`).FindStringSubmatch(m.text)
			got = fmt.Sprint("error ", names[1:])
		} else {
			got = fmt.Sprintf("fields %v, params %v", in.fields, in.params)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.transport, got, c.want, m)
		}
	}
}
