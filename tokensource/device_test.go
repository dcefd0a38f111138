package tokensource

import (
	"context"
	"encoding/json"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// byDevice is a source that a person authorizes on another device.
func byDevice(p *provider) Config {
	return Config{
		Grant: "device_code", DeviceURL: p.URL + "/device", TokenURL: p.URL + "/token", ClientID: "crm",
		Scopes: []string{"read", "write"}, UserAgent: agent,
	}
}

// shown is the answer of a device authorization endpoint, with changes; "-" takes a
// field out.
func shown(changes ...string) string {
	m := map[string]any{
		"device_code": "device-code", "user_code": "WDJB-MJHT", "verification_uri": "https://auth.example.org/device",
		"verification_uri_complete": "https://auth.example.org/device?user_code=WDJB-MJHT", "expires_in": 1800, "interval": 7,
	}
	for i := 0; i < len(changes); i += 2 {
		m[changes[i]] = json.RawMessage(changes[i+1])
		if changes[i+1] == "-" {
			delete(m, changes[i])
		}
	}
	text, _ := json.Marshal(m)
	return string(text)
}

func TestADeviceAuthorizationIsWhatThePersonIsToldWithinReason(t *testing.T) {
	t.Parallel()
	standard := DeviceAuthorization{
		DeviceCode: "device-code", UserCode: "WDJB-MJHT", VerificationURI: "https://auth.example.org/device",
		VerificationURIComplete: "https://auth.example.org/device?user_code=WDJB-MJHT", ExpiresIn: 30 * time.Minute, Interval: 7 * time.Second,
	}
	with := func(change func(*DeviceAuthorization)) DeviceAuthorization {
		d := standard
		change(&d)
		return d
	}
	lasting := func(d time.Duration) DeviceAuthorization {
		return with(func(a *DeviceAuthorization) { a.ExpiresIn = d })
	}
	each := func(d time.Duration) DeviceAuthorization {
		return with(func(a *DeviceAuthorization) { a.Interval = d })
	}
	for answer, want := range map[string]DeviceAuthorization{
		shown(): standard,
		shown("verification_uri", "-", "verification_url", `"https://www.google.com/device"`): with(func(d *DeviceAuthorization) {
			d.VerificationURI = "https://www.google.com/device"
		}),
		shown("verification_uri_complete", "-"): with(func(d *DeviceAuthorization) { d.VerificationURIComplete = "" }),
		shown("verification_uri", `"http://192.168.1.1/device"`): with(func(d *DeviceAuthorization) {
			d.VerificationURI = "http://192.168.1.1/device"
		}),
		shown("user_code", "12345678"):    with(func(d *DeviceAuthorization) { d.UserCode = "12345678" }),
		shown("interval", "-"):            each(5 * time.Second),
		shown("interval", "0"):            each(5 * time.Second),
		shown("interval", "-3"):           each(5 * time.Second),
		shown("interval", "null"):         each(5 * time.Second),
		shown("interval", `"10"`):         each(10 * time.Second),
		shown("interval", "60"):           each(time.Minute),
		shown("interval", "86400"):        each(time.Minute),
		shown("interval", "1e300"):        each(5 * time.Second),
		shown("expires_in", "-"):          lasting(10 * time.Minute),
		shown("expires_in", "0"):          lasting(10 * time.Minute),
		shown("expires_in", "-1"):         lasting(10 * time.Minute),
		shown("expires_in", `"600"`):      lasting(10 * time.Minute),
		shown("expires_in", "60"):         lasting(time.Minute),
		shown("expires_in", "86400"):      lasting(30 * time.Minute),
		shown("expires_in", `"tomorrow"`): lasting(10 * time.Minute),
		" \xef\xbb\xbf" + shown() + " ;":  standard,
		url.Values{"device_code": {"d"}, "user_code": {"u"}, "verification_uri": {"https://x.example/"}}.Encode(): {
			DeviceCode: "d", UserCode: "u", VerificationURI: "https://x.example/", ExpiresIn: 10 * time.Minute, Interval: 5 * time.Second},
	} {
		p := newProvider(t, reply(200, answer))
		d, err := newSource(t, byDevice(p)).AuthorizeDevice(context.Background())
		if err != nil {
			t.Errorf("%s: %v", answer, err)
			continue
		}
		if *d != want {
			t.Errorf("%s:\n got %+v\nwant %+v", answer, *d, want)
		}
		text, err := json.Marshal(d)
		var again DeviceAuthorization
		if err != nil || json.Unmarshal(text, &again) != nil || again != *d {
			t.Errorf("written down it is %s", text)
		}
	}
}

func TestADeviceAuthorizationThatCannotBeShownIsRefused(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		"{}", "[]", "null", "", "<html>", shown("device_code", "-"), shown("user_code", "-"), shown("verification_uri", "-"),
		shown("device_code", `""`), shown("user_code", `""`), shown("verification_uri", `""`), shown("user_code", "{}"),
		shown("user_code", `"A\nB"`), shown("user_code", `"\u001b[2J"`), shown("user_code", `"`+strings.Repeat("A", maxCode+1)+`"`),
		shown("verification_uri", `"javascript:alert(1)"`), shown("verification_uri", `"file:///etc/passwd"`), shown("verification_uri", `"/device"`),
		shown("verification_uri", `"https:///device"`), shown("verification_uri", `"https://x.example/a b"`), shown("verification_uri", `"https://x.example/\u001b[2J"`),
		shown("verification_uri_complete", `"javascript:alert(1)"`), shown("verification_uri_complete", `"https://x.example/\n"`),
		shown("verification_uri_complete", `"data:text/html,x"`), shown("verification_uri", `"//x.example/"`),
	} {
		p := newProvider(t, reply(200, answer))
		d, err := newSource(t, byDevice(p)).AuthorizeDevice(context.Background())
		if d != nil || err == nil {
			t.Errorf("%s: it is shown: %+v", answer, d)
			continue
		}
		if e := failureOf(t, err); e.Reason == "" || strings.ContainsAny(e.Error(), "\n\x1b") || strings.Contains(everyText(e), "device-code") {
			t.Errorf("%s: %q", answer, e.Error())
		}
	}
}

func TestADeviceRequestHasTheClientTheScopesAndTheParametersAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config)
		want   url.Values
	}{
		"as it is":       {func(*Config) {}, url.Values{"client_id": {"crm"}, "scope": {"read write"}}},
		"no scope":       {func(c *Config) { c.Scopes = nil }, url.Values{"client_id": {"crm"}}},
		"scopes, commas": {func(c *Config) { c.ScopeSeparator = "," }, url.Values{"client_id": {"crm"}, "scope": {"read,write"}}},
		"a param":        {func(c *Config) { c.Params = []Param{param("audience", "x")} }, url.Values{"client_id": {"crm"}, "scope": {"read write"}, "audience": {"x"}}},
		"how a token is asked for is another thing": {func(c *Config) {
			c.TokenRequest = Request{Method: "GET", Encoding: "query", Params: []Param{param("tenant", "x")}}
		}, url.Values{"client_id": {"crm"}, "scope": {"read write"}}},
		"a secret": {func(c *Config) { c.ClientSecret, c.ClientAuth = "s", "client_secret_post" },
			url.Values{"client_id": {"crm"}, "client_secret": {"s"}, "scope": {"read write"}}},
		"a secret, by Basic": {func(c *Config) { c.ClientSecret = "s" }, url.Values{"scope": {"read write"}}},
	} {
		p := newProvider(t, reply(200, shown()))
		config := byDevice(p)
		c.change(&config)
		if _, err := newSource(t, config).AuthorizeDevice(context.Background()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r := p.only(t)
		if got := r.values(t); r.method != "POST" || r.target != "/device" || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %s %s\n got %v\nwant %v", name, r.method, r.target, got, c.want)
		}
		if _, secret, ok := basic(r); ok != (name == "a secret, by Basic") || ok && secret != "s" {
			t.Errorf("%s: by Basic there is %q", name, secret)
		}
	}
}

func TestADeviceIsPolledByItsCode(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at", "rt"))
	token, err := newSource(t, byDevice(p)).ExchangeDevice(context.Background(), &DeviceAuthorization{DeviceCode: "d/e+v", UserCode: "u"})
	if err != nil || token.RefreshToken != "rt" || !slices.Equal(token.Scopes, []string{"read", "write"}) {
		t.Fatalf("%+v, %v", token, err)
	}
	want := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {"d/e+v"}, "client_id": {"crm"}}
	if r := p.only(t); r.target != "/token" || !reflect.DeepEqual(r.values(t), want) {
		t.Errorf("%s %v", r.target, r.values(t))
	}
}

func TestThePollOfADeviceSaysWhetherToGoOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		code   string
		over   bool
	}{
		"not yet":                  {400, object("error", "authorization_pending"), "authorization_pending", false},
		"not yet, with status 200": {200, object("error", "authorization_pending"), "authorization_pending", false},
		"not yet, with status 428": {428, object("error", "authorization_pending"), "authorization_pending", false},
		"too often":                {400, object("error", "slow_down"), "slow_down", false},
		"too often, with 429":      {429, object("error", "slow_down"), "slow_down", false},
		"no":                       {400, object("error", "access_denied"), "access_denied", true},
		"no, with 403":             {403, object("error", "access_denied"), "access_denied", true},
		"too late":                 {400, object("error", "expired_token"), "expired_token", true},
		"used":                     {400, object("error", "invalid_grant"), "invalid_grant", true},
		"down":                     {503, "", "", false},
		"nonsense":                 {200, "{}", "", false},
	} {
		p := newProvider(t, reply(c.status, c.body))
		token, err := newSource(t, byDevice(p)).ExchangeDevice(context.Background(), &DeviceAuthorization{DeviceCode: "d"})
		e := failureOf(t, err)
		if token != nil || e.Code != c.code || e.Permanent != c.over || e.AuthorizationRequired != c.over {
			t.Errorf("%s: %+v", name, e)
		}
		if n := len(p.arrived()); n != 1 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
	p := newProvider(t, reply(401, object("error", "invalid_client")))
	_, err := newSource(t, byDevice(p)).ExchangeDevice(context.Background(), &DeviceAuthorization{DeviceCode: "d"})
	if e := failureOf(t, err); !e.Permanent || e.AuthorizationRequired {
		t.Errorf("%+v", e)
	}
}

func TestADeviceEndpointThatRefusesSaysWhy(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(400, object("error", "invalid_scope", "error_description", "no write"), "Retry-After", "7"))
	d, err := newSource(t, byDevice(p)).AuthorizeDevice(context.Background())
	if e := failureOf(t, err); d != nil || e.Code != "invalid_scope" || e.Description != "no write" || e.StatusCode != 400 || !e.Permanent || e.RetryAfter != 7*time.Second {
		t.Errorf("%+v", e)
	}
	c := byDevice(p)
	c.DeviceURL = ""
	_, err = newSource(t, c).AuthorizeDevice(context.Background())
	if e := failureOf(t, err); !strings.HasPrefix(e.Reason, "device_url: ") {
		t.Errorf("%v", e)
	}
}
