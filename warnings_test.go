package injecttoken

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// validated returns the warnings of a Caddyfile, each with what it is about.
func validated(t *testing.T, source, site string) (warnings []string, err error) {
	t.Helper()
	logged, err := validateCaddyfile(fmt.Sprintf(`{
	token_sources {
		source crm {
			token_url https://auth.example.org/token
			%s
		}
	}
}
http://localhost {
	%s
}
`, source, site))
	for line := range strings.Lines(logged) {
		var fields struct{ Level, Msg, Option, Upstream string }
		if json.Unmarshal([]byte(line), &fields) != nil || fields.Level != "warn" {
			continue
		}
		if about := fields.Option + fields.Upstream; about != "" {
			message, _, _ := strings.Cut(fields.Msg, ";")
			warnings = append(warnings, about+": "+message)
		}
	}
	return warnings, err
}

const fileSecret = "grant client_credentials\n client_id legacy-script\n client_secret {file./run/secrets/crm}"

func TestAnUpstreamThatTheNetworkSeesIsAWarning(t *testing.T) {
	const clear = ": the token goes to this upstream without TLS"
	for site, want := range map[string][]string{
		"inject_token crm https://api.example.org":                                                         nil,
		"inject_token crm http://127.0.0.1:8080":                                                           nil,
		"inject_token crm unix//run/api.sock":                                                              nil,
		"inject_token crm api.example.org":                                                                 {"api.example.org:80" + clear},
		"inject_token crm http://api.example.org:8080":                                                     {"api.example.org:8080" + clear},
		"inject_token crm h2c://10.0.0.1:80 h2c://10.0.0.2:1":                                              {"10.0.0.1:80" + clear, "10.0.0.2:1" + clear},
		"inject_token crm https://api.example.org:8080 {\n transport http {\n tls_except_ports 8080\n}\n}": {"api.example.org:8080" + clear},
		"inject_token crm {\n dynamic a 192.0.2.9 80\n}":                                                   {"dynamic" + clear},
		// The upstream of the handler around it is not ours.
		"reverse_proxy http://other.example.org {\n @bad status 404\n handle_response @bad {\n inject_token crm https://api.example.org\n}\n}":   nil,
		"reverse_proxy {http.request.header.X-Up} {\n @bad status 404\n handle_response @bad {\n inject_token crm https://api.example.org\n}\n}": nil,
	} {
		got, err := validated(t, fileSecret, site)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: warnings %q, %v; want %q", site, got, err, want)
		}
	}
}

func TestASecretThatIsWrittenOutIsAWarningWhereverItStands(t *testing.T) {
	const visible, path = ": this secret stands in the configuration itself", ": this secret is sent as it is written here, and not read from anywhere"
	for source, want := range map[string][]string{
		fileSecret: nil,
		"grant client_credentials\n client_id a\n client_secret hunter2hunter2":                    {"client_secret" + visible},
		"grant client_credentials\n client_id a\n client_secret /run/secrets/crm":                  {"client_secret" + path},
		"grant client_credentials\n client_id a\n client_secret {file:/run/secrets/crm}":           {"client_secret" + path},
		"grant client_credentials\n client_id a\n client_secret {file./run/x":                      {"client_secret" + path},
		"grant password\n username a\n password x":                                                 {"password" + visible},
		"grant refresh_token\n client_id a\n refresh_token x":                                      {"refresh_token" + visible},
		"grant custom\n param user a\n param password x":                                           {"param password" + visible},
		"grant custom\n param user a\n token_request {\n header Authorization \"Basic eDp5\"\n}":   {"token_request header Authorization" + visible},
		"grant custom\n param user a\n token_request {\n param pin 1234\n}":                        {"token_request param pin" + visible},
		"grant custom\n param user a\n refresh_request {\n param refresh_token {refresh_token}\n}": nil,
		"grant custom\n param user a\n transport http {\n network_proxy url http://a:b@proxy:1\n}": {"transport network_proxy" + visible},
		"grant custom\n param user a\n transport http {\n network_proxy url {env.PROXY}\n}":        nil,
		"grant custom\n param user a\n transport http {\n network_proxy url http://proxy:1\n}":     nil,
	} {
		got, err := validated(t, source, "inject_token crm https://api.example.org")
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: warnings %q, %v; want %q", source, got, err, want)
		}
	}
	got, err := validateCaddyfile("{\n token_sources {\n source crm {\n grant custom\n token_url https://auth.example.org/?a=1&api_key=CANARY\n}\n}\n}")
	if err != nil || !strings.Contains(got, `"option":"token_url ?api_key"`) || strings.Contains(got, canary) {
		t.Errorf("a key in the address: %v\n%s", err, got)
	}
}

func TestWaitingForATokenDoesNotMakeAnUpstreamUnhealthy(t *testing.T) {
	const site = "inject_token crm https://api.example.org {\n unhealthy_latency 4s\n fail_duration 30s\n %s\n}"
	if _, err := validated(t, fileSecret, "inject_token crm https://api.example.org {\n unhealthy_latency 4s\n wait 1m\n}"); err != nil {
		t.Errorf("nothing is unhealthy without fail_duration: %v", err)
	}
	if _, err := validated(t, fileSecret, "inject_token crm https://bücher.example.org {\n allow_hosts *.example.org\n}"); err != nil {
		t.Errorf("a name that is not in ASCII: %v", err)
	}
	for option, want := range map[string]string{
		"":        "",
		"wait 3s": "",
		"wait 4s": "wait: this must be less than unhealthy_latency",
	} {
		_, err := validated(t, fileSecret, fmt.Sprintf(site, option))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", option, err)
		}
	}
}

func TestAFileOfThisMachineIsNoAllowedHost(t *testing.T) {
	_, err := validated(t, fileSecret, "inject_token crm unix//tmp/evil.example.org {\n allow_hosts *.example.org\n}")
	if err == nil || !strings.Contains(err.Error(), "is not allowed by it") {
		t.Errorf("the error is %v", err)
	}
	for _, host := range []string{"/tmp/evil.example.org", "a/b.example.org", "x:y.example.org", ".example.org"} {
		if hostAllowed(host, "80", []string{"*.example.org"}) {
			t.Errorf("%s is allowed", host)
		}
	}
}

func TestAGrantThatAProvidersEntryDoesNotKnowIsAWarning(t *testing.T) {
	for grant, warned := range map[string]bool{"client_credentials": false, "password": true} {
		options := ""
		if grant == "password" {
			options = "username reports\n password {file./run/secrets/password}"
		}
		logged, err := validateCaddyfile(fmt.Sprintf(`{
	token_sources {
		source shop {
			provider shopify {
				shop acme
			}
			grant %s
			client_id legacy-script
			client_secret {file./run/secrets/shop}
			%s
		}
	}
}
`, grant, options))
		if got := strings.Contains(logged, "does not know this grant"); err != nil || got != warned {
			t.Errorf("%s: warned %v, %v\n%s", grant, got, err, logged)
		}
	}
}
