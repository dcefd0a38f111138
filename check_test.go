package injecttoken

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/tokensource"
)

// sourceJSON is a source without mistakes, with some of its fields written
// otherwise; an empty text leaves a field out.
func sourceJSON(t *testing.T, changes map[string]string) string {
	t.Helper()
	fields := map[string]json.RawMessage{
		"grant":         json.RawMessage(`"client_credentials"`),
		"token_url":     json.RawMessage(`"https://auth.example.org/token"`),
		"client_id":     json.RawMessage(`"legacy-script"`),
		"client_secret": json.RawMessage(`"CANARY-client-secret"`),
	}
	for name, value := range changes {
		if value == "" {
			delete(fields, name)
		} else {
			fields[name] = json.RawMessage(value)
		}
	}
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// refusal returns what Caddy says of a configuration that it does not take.
func refusal(t *testing.T, config string) string {
	t.Helper()
	logged, err := validate([]byte(config))
	if err == nil {
		t.Fatalf("this is taken as if nothing were wrong: %s", config)
	}
	if strings.Contains(err.Error(), canary) || strings.Contains(logged, canary) {
		t.Errorf("a secret is shown: %v\n%s", err, logged)
	}
	return err.Error()
}

func TestTheSourceOfTheJSONTestsIsRight(t *testing.T) {
	if _, err := validate([]byte(`{"apps": {"token_sources": {"sources": {"crm": ` + sourceJSON(t, nil) + `}}}}`)); err != nil {
		t.Error(err)
	}
}

func TestAWrongSourceInJSONIsRefused(t *testing.T) {
	type fields = map[string]string
	const prefix = "loading token_sources app module: provision token_sources: source crm: "
	for _, c := range []struct {
		title   string
		changes fields
		want    string
	}{
		{"no grant", fields{"grant": ""}, "grant: missing; write one of authorization_code, client_credentials, custom, device_code, jwt_bearer, password, refresh_token, token_exchange"},
		{"a grant mistyped", fields{"grant": `"client_credential"`}, `grant: unknown grant "client_credential"; did you mean client_credentials?`},
		{"an unknown grant", fields{"grant": `"saml"`}, `grant: unknown grant "saml"; there are: authorization_code, client_credentials, custom, device_code, jwt_bearer, password, refresh_token, token_exchange`},
		{"a grant with a placeholder", fields{"grant": `"{env.GRANT}"`}, `grant: unknown grant "{env.GRANT}"; there are: authorization_code, client_credentials, custom, device_code, jwt_bearer, password, refresh_token, token_exchange`},

		{"no token_url", fields{"token_url": ""}, "token_url: missing; write the address of the provider's token endpoint, or issuer, whose metadata have it"},
		{"a relative token_url", fields{"token_url": `"/token"`}, "token_url: a whole URL is needed, such as https://auth.example.org/token"},
		{"a token_url without a host", fields{"token_url": `"https:///token"`}, "token_url: the URL has no host"},
		{"a token_url with a user", fields{"token_url": `"https://robot:CANARY@auth.example.org/"`}, "token_url: the URL holds a user name; use client_id, client_secret and client_auth"},
		{"a token_url with a fragment", fields{"token_url": `"https://auth.example.org/#CANARY"`}, "token_url: the URL has a fragment (#…), which cannot be sent"},
		{"a token_url that is none", fields{"token_url": `"https://auth.example.org/%zz?key=CANARY"`}, "token_url: this is not a URL"},
		{"a token_url of plain http", fields{"token_url": `"http://auth.example.org/?key=CANARY"`}, "token_url: plain http would show the credentials to the network; use https, or write insecure_http if this must be"},
		{"a token_url with a placeholder of a request", fields{"token_url": `"https://{http.request.host}/?key=CANARY"`}, "token_url: a placeholder of a request cannot be used: a token request belongs to no caller's request; there are {env.*} and {file.*}"},
		{"a token_url with an unknown placeholder", fields{"token_url": `"https://auth.example.org/{CANARY}"`}, `token_url: unknown placeholder in braces; there are {env.*} and {file.*}, and \{ is a brace that means itself`},
		{"a token_url with a refresh token", fields{"token_url": `"https://auth.example.org/{refresh_token}"`}, "token_url: {refresh_token} can be used in refresh_request alone"},

		{"no client_id", fields{"client_id": ""}, "client_id: missing; the grant client_credentials needs it"},
		{"a client_id with a placeholder of a request", fields{"client_id": `"{http.auth.user.id}"`}, "client_id: a placeholder of a request cannot be used: a token request belongs to no caller's request; there are {env.*} and {file.*}"},
		{"a client_secret and no client_id", fields{"grant": `"password"`, "client_id": "", "username": `"robot"`, "password": `"CANARY"`}, "client_id: missing; client_secret goes with it"},
		{"an unknown client_auth", fields{"client_auth": `"client_secret_bsic"`}, "client_auth: unknown method; did you mean client_secret_basic?"},
		{"a client_auth that is the secret", fields{"client_auth": `"CANARY"`}, "client_auth: unknown method; there are: client_secret_basic, client_secret_jwt, client_secret_post, client_secret_query, none, private_key_jwt, self_signed_tls_client_auth, tls_client_auth"},
		{"a client_auth that needs a secret", fields{"client_auth": `"client_secret_post"`, "client_secret": ""}, "client_secret: missing; client_auth client_secret_post needs it"},
		{"a client_auth of none with a secret", fields{"client_auth": `"none"`}, "client_auth: none goes without client_secret"},
		{"raw without Basic", fields{"client_auth": `"client_secret_post"`, "client_auth_raw": "true"}, "client_auth: raw goes with client_secret_basic alone"},

		{"no password", fields{"grant": `"password"`, "username": `"robot"`}, "password: missing; the grant password needs it"},
		{"no username", fields{"grant": `"password"`, "password": `"CANARY"`}, "username: missing; the grant password needs it"},
		{"no refresh_token", fields{"grant": `"refresh_token"`}, "refresh_token: missing; the grant refresh_token needs it"},
		{"a password for client_credentials", fields{"password": `"CANARY"`}, "password: the grant client_credentials has no use for it; did you mean grant password?"},
		{"a refresh_token for client_credentials", fields{"refresh_token": `"CANARY"`}, "refresh_token: the grant client_credentials has no use for it; did you mean grant refresh_token?"},
		{"scopes for custom", fields{"grant": `"custom"`, "scopes": `["read"]`}, "scope: the grant custom has no use for it; it sends nothing but what is written as param, header or url"},
		{"a client_id for custom", fields{"grant": `"custom"`}, "client_auth: the grant custom sends client_id and client_secret only as client_secret_basic; write that, or use param, or body"},

		{"a scope_separator and no scopes", fields{"scope_separator": `","`}, "scope_separator: there is no scope that it could separate"},
		{"a scope with a placeholder of a request", fields{"scopes": `["read", "{http.vars.scope}"]`}, "scope: a placeholder of a request cannot be used: a token request belongs to no caller's request; there are {env.*} and {file.*}"},

		{"a param without a name", fields{"params": `[{"value": "CANARY"}]`}, "param: a parameter has no name"},
		{"a param of two kinds", fields{"params": `[{"name": "key", "value": "CANARY", "json": 1}]`}, "param_json key: this has more than one of value, json and omit"},
		{"a param that is left out and has a value", fields{"params": `[{"name": "key", "value": "CANARY", "omit": true}]`}, "param key: this has more than one of value, json and omit"},
		{"a JSON value in a form", fields{"params": `[{"name": "key", "json": {"key": "CANARY"}}]`}, "param_json key: a JSON value goes with the encoding json alone (token_request json)"},
		{"a JSON value in the form of a refresh", fields{"params": `[{"name": "key", "json": "CANARY"}]`, "token_request": `{"encoding": "json"}`, "refresh_request": `{"encoding": "form"}`}, "param_json key: a JSON value goes with the encoding json alone (token_request json)"},
		{"a JSON value with a placeholder of a request", fields{"params": `[{"name": "key", "json": "CANARY{http.request.host}"}]`, "token_request": `{"encoding": "json"}`}, "param_json key: a placeholder of a request cannot be used: a token request belongs to no caller's request; there are {env.*} and {file.*}"},
		{"a param twice in JSON", fields{"params": `[{"name": "key", "value": "CANARY"}, {"name": "key", "value": "CANARY"}]`, "token_request": `{"encoding": "json"}`}, "param key: this stands here twice"},
		{"a param with an unknown placeholder", fields{"params": `[{"name": "key", "value": "CANARY{vault.key}"}]`}, `param key: unknown placeholder in braces; there are {env.*} and {file.*}, and \{ is a brace that means itself`},
		{"a param with a refresh token", fields{"params": `[{"name": "key", "value": "{refresh_token}"}]`}, "param key: {refresh_token} can be used in refresh_request alone"},

		{"an unknown method", fields{"token_request": `{"method": "PUT"}`}, `token_request: unknown method "PUT"; there are GET and POST`},
		{"an unknown encoding", fields{"token_request": `{"encoding": "xml"}`}, `token_request: unknown encoding "xml"; there are form, query and json`},
		{"a GET with a form", fields{"token_request": `{"method": "GET", "encoding": "form"}`}, "token_request: a GET has no body, so it goes with query, not with form"},
		{"a GET with JSON for a refresh", fields{"refresh_request": `{"method": "GET", "encoding": "json"}`}, "refresh_request: a GET has no body, so it goes with query, not with json"},
		{"a url of the token_request", fields{"token_request": `{"url": "https://auth.example.org/?key=CANARY"}`}, "token_request url: this belongs into refresh_request; the address of this one is token_url"},
		{"a relative url of the refresh_request", fields{"refresh_request": `{"url": "/?key=CANARY"}`}, "refresh_request url: a whole URL is needed, such as https://auth.example.org/token"},
		{"a url of plain http of the refresh_request", fields{"refresh_request": `{"url": "http://auth.example.org/?key=CANARY"}`}, "refresh_request url: plain http would show the credentials to the network; use https, or write insecure_http if this must be"},
		{"a header without a name", fields{"token_request": `{"headers": [{"name": "", "value": "CANARY"}]}`}, "token_request header: the name holds what no header field's name can; write header NAME VALUE, without a colon"},
		{"a header's name and value swapped", fields{"token_request": `{"headers": [{"name": "CANARY==", "value": "X-Api-Key"}]}`}, "token_request header: the name holds what no header field's name can; write header NAME VALUE, without a colon"},
		{"a header of the connection", fields{"refresh_request": `{"headers": [{"name": "Connection", "value": "CANARY"}]}`}, "refresh_request header Connection: this belongs to the connection and cannot be set"},
		{"a header with control characters", fields{"token_request": `{"headers": [{"name": "X-Api-Key", "value": "CANARY\r\nX: y"}]}`}, "token_request header X-Api-Key: the value holds control characters"},
		{"a header with a placeholder of a request", fields{"token_request": `{"headers": [{"name": "X-Api-Key", "value": "CANARY{http.request.host}"}]}`}, "token_request header X-Api-Key: a placeholder of a request cannot be used: a token request belongs to no caller's request; there are {env.*} and {file.*}"},
		{"a second Authorization", fields{"token_request": `{"headers": [{"name": "authorization", "value": "CANARY"}]}`}, "token_request header authorization: this field holds the client's credentials already (client_secret_basic)"},
		{"a refresh token before there is one", fields{"token_request": `{"params": [{"name": "key", "value": "{refresh_token}"}]}`}, "token_request param key: {refresh_token} can be used in refresh_request alone"},
		{"a refresh of custom without a refresh token", fields{"grant": `"custom"`, "client_id": "", "client_secret": "", "params": `[{"name": "pin", "value": "CANARY"}]`, "refresh_request": `{}`}, "refresh_request: the grant custom sends nothing by itself, so {refresh_token} or {access_token} must stand somewhere in here"},

		{"a path that is none", fields{"token_response": `{"access_token": "data..token"}`}, `token_response access_token: "data..token" is not a path such as data.token`},
		{"an unknown unit", fields{"token_response": `{"expires_in": "ttl", "expires_in_unit": "days"}`}, `token_response expires_in: unknown unit "days"; there are s, ms, m and h`},
		{"a name to expose that is none", fields{"token_response": `{"expose": {"Host": "host"}}`}, `token_response expose: the name "Host" has other signs than lower-case letters, digits and _`},
		{"the whole answer exposed", fields{"token_response": `{"expose": {"host": "."}}`}, `token_response expose host: "." is not a path such as data.token`},
		{"an unknown format", fields{"token_response": `{"expires_at": "until", "expires_at_format": "iso"}`}, `token_response expires_at: unknown format "iso"; there are unix, unix_ms and rfc3339`},

		{"a negative default_lifetime", fields{"default_lifetime": `"-5s"`}, "default_lifetime: this must be more than 0"},
		{"a negative timeout", fields{"timeout": `-1`}, "timeout: this must be more than 0"},
		{"a refresh_at of 150", fields{"refresh_at": `150`}, "refresh_at: this is a percentage of the lifetime from 1% to 99%"},
		{"a refresh_at that is a share", fields{"refresh_at": `0.8`}, "refresh_at: this is a percentage of the lifetime from 1% to 99%"},
		{"a negative refresh_at", fields{"refresh_at": `-20`}, "refresh_at: this is a percentage of the lifetime from 1% to 99%"},
		{"a transport with a proxy that is wrong", fields{"transport": `{"network_proxy": {"from": "url", "url": "http://robot:CANARY@proxy.example.org:3 128"}}`}, "transport: network_proxy: this is wrong; it is not shown, for it may hold a password"},
	} {
		t.Run(c.title, func(t *testing.T) {
			got := refusal(t, `{"apps": {"token_sources": {"sources": {"crm": `+sourceJSON(t, c.changes)+`}}}}`)
			if got != prefix+c.want {
				t.Errorf("the error is\n%s\nand this was expected:\n%s", got, prefix+c.want)
			}
		})
	}
}

func TestWhatIsNoSourceInJSONIsRefused(t *testing.T) {
	right := sourceJSON(t, nil)
	for _, c := range []struct{ title, app, want string }{
		{"null", `{"sources": {"crm": null}}`, "provision token_sources: source crm: this is null; write an object"},
		{"a name in upper case", `{"sources": {"CRM": ` + right + `}}`, `provision token_sources: source CRM: the name of a token source begins with a lower-case letter or a digit and goes on with such, _ or -; "CRM" does not`},
		{"an empty name", `{"sources": {"": ` + right + `}}`, `provision token_sources: source : the name of a token source begins with a lower-case letter or a digit and goes on with such, _ or -; "" does not`},
		{"a token of a source that there is not", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"params": `[{"name": "session", "value": "{source.login}"}]`}) + `}}`, `provision token_sources: source crm: param session: no token source is named "login"; there are: crm`},
		{"sources that wait for each other", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"params": `[{"name": "session", "value": "{source.login}"}]`}) + `, "login": ` + sourceJSON(t, map[string]string{"params": `[{"name": "session", "value": "{source.crm}"}]`}) + `}}`, `provision token_sources: source crm: param session: this waits for itself: crm → login → crm`},
		{"an unknown field of the app", `{"encryption_key": "CANARY", "sources": {"crm": ` + right + `}}`, `decoding module config: token_sources: json: unknown field "encryption_key"`},
		{"an unknown field of a source", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"provider_key": `"CANARY"`}) + `}}`, `decoding module config: token_sources: json: unknown field "provider_key"`},
		{"an unknown field of a request", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"token_request": `{"template": "CANARY"}`}) + `}}`, `decoding module config: token_sources: json: unknown field "template"`},
		{"a body without a content type", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"token_request": `{"body": {"template": "a"}}`}) + `}}`, `provision token_sources: source crm: token_request body: this is no content type such as application/json; write body CONTENT-TYPE TEMPLATE`},
		{"a body with a parameter that is not sent", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"token_request": `{"body": {"content_type": "text/plain", "template": "{code}"}}`}) + `}}`, `provision token_sources: source crm: token_request body: unknown placeholder in braces; there are the parameters that this request would send by themselves, {env.*}, {file.*} and {source.NAME}, and \{ is a brace that means itself`},
		{"an unknown field of a param", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"params": `[{"name": "key", "vlaue": "CANARY"}]`}) + `}}`, `decoding module config: token_sources: json: unknown field "vlaue"`},
		{"an unknown field of an answer", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"token_response": `{"exposes": {}}`}) + `}}`, `decoding module config: token_sources: json: unknown field "exposes"`},
		{"an unknown field of its transport", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"transport": `{"proxy": "CANARY"}`}) + `}}`, `decoding module config: token_sources: json: unknown field "proxy"`},
		{"a secret that is a number", `{"sources": {"crm": ` + sourceJSON(t, map[string]string{"client_secret": "2026112319"}) + `}}`, "decoding module config: token_sources: json: cannot unmarshal number into Go struct field Source.sources.client_secret of type string"},
	} {
		t.Run(c.title, func(t *testing.T) {
			want := "loading token_sources app module: " + c.want
			if got := refusal(t, `{"apps": {"token_sources": `+c.app+`}}`); got != want {
				t.Errorf("the error is\n%s\nand this was expected:\n%s", got, want)
			}
		})
	}
}

// proxyJSON is a configuration with one reverse_proxy whose transport is
// given.
func proxyJSON(source, transport, rest string) string {
	return `{"apps": {
		` + source + `
		"http": {"servers": {"srv0": {"listen": ["127.0.0.1:18080"], "routes": [{"handle": [
			{"handler": "reverse_proxy", ` + rest + `, "transport": ` + transport + `}
		]}]}}}
	}}`
}

func TestAWrongTransportInJSONIsRefused(t *testing.T) {
	crm := `"token_sources": {"sources": {"crm": ` + sourceJSON(t, nil) + `}},`
	const upstream = `"upstreams": [{"dial": "api.example.org:443"}]`
	if _, err := validate([]byte(proxyJSON(crm, `{"protocol": "inject_token", "source": "crm", "http": {"tls": {}}}`, upstream))); err != nil {
		t.Fatal(err)
	}

	const allowHosts = "allow_hosts: missing; the address of an upstream holds a placeholder, so say which hosts may get the token, such as allow_hosts *.example.org"
	for _, c := range []struct{ title, sources, fields, rest, want string }{
		{"no source", crm, `"wait": "5s"`, upstream, "inject_token: the name of a token source is missing"},
		{"a source mistyped", crm, `"source": "cmr"`, upstream, `no token source is named "cmr"; did you mean crm?`},
		{"an unknown source", crm, `"source": "billing"`, upstream, `no token source is named "billing"; there are: crm`},
		{"a source and no app", "", `"source": "crm"`, upstream, `no token source is named "crm"; there are none: write token_sources { source crm { … } } in the global options`},
		{"a source with a placeholder", crm, `"source": "tenant-{http.vars.tenant}"`, upstream, "sources: missing; the name of the token source holds a placeholder, so say which sources it may name, such as sources tenant-*"},
		{"sources that match none", crm, `"source": "tenant-{http.vars.tenant}", "sources": ["tenant-*"]`, upstream, "sources: no token source matches tenant-*; there are: crm"},
		{"sources without a placeholder", crm, `"source": "crm", "sources": ["crm"]`, upstream, "sources: the name of the token source holds no placeholder, so that there is nothing to choose"},
		{"a source for an unknown upstream", crm, `"source": "crm", "upstream_sources": {"b.example.org:443": "crm"}`, upstream, "upstream_source: b.example.org:443 is no upstream; there is api.example.org:443"},
		{"an unknown source for an upstream", crm, `"source": "crm", "upstream_sources": {"api.example.org:443": "crn"}`, upstream, `upstream_source: no token source is named "crn"; did you mean crm?`},
		{"a status of success", crm, `"source": "crm", "replay_on": [200]`, upstream, "replay_on: 200 is not a status by which an API refuses a token, such as 401"},
		{"a negative buffer", crm, `"source": "crm", "replay_buffer": -1`, upstream, "replay_buffer: write a size up to 1GiB, such as 64KiB; each request that is under way may take as much memory"},
		{"a header without a name", crm, `"source": "crm", "headers": [{}]`, upstream, `header: "" is not the name of a header field`},
		{"a header with a colon", crm, `"source": "crm", "headers": [{"field": "X-Key:"}]`, upstream, `header: "X-Key:" is not the name of a header field`},
		{"a header of the connection", crm, `"source": "crm", "headers": [{"field": "te"}]`, upstream, "header: te belongs to the connection, so a token in it would not arrive; use another field, such as Authorization"},
		{"a format without the token", crm, `"source": "crm", "headers": [{"field": "X-Key", "format": "Key"}]`, upstream, "header: the format of X-Key does not hold {token}, nor does any other"},
		{"a format with a placeholder of a request", crm, `"source": "crm", "headers": [{"field": "X-Key", "format": "{token} {http.request.host}"}]`, upstream, "header: the format of X-Key holds an unknown placeholder in braces; there are {token}, {response.NAME}, {source.NAME}, {env.*}, {file.*} and {system.*}, and \\{ is a brace that means itself"},
		{"a format with what is not exposed", crm, `"source": "crm", "headers": [{"field": "X-Key", "format": "{token} {response.host}"}]`, upstream, "header: the format of X-Key: {response.host} stands for nothing, for the source crm does not expose it; write token_response { expose host PATH } there"},
		{"a format with an unknown source", crm, `"source": "crm", "headers": [{"field": "X-Key", "format": "{token} {source.cmr}"}]`, upstream, `header: the format of X-Key: no token source is named "cmr"; did you mean crm?`},
		{"basic without the token", crm, `"source": "crm", "basic": {"username": "robot", "password": "x"}`, upstream, "basic: the format of Authorization does not hold {token}, nor does any other"},
		{"basic with a colon", crm, `"source": "crm", "basic": {"username": "robot:x", "password": "{token}"}`, upstream, "basic: the user holds a colon, which would end it"},
		{"basic with a line break", crm, `"source": "crm", "basic": {"username": "robot\r\nX", "password": "{token}"}`, upstream, "basic: the format of Authorization holds control characters"},
		{"basic beside Authorization", crm, `"source": "crm", "headers": [{"field": "authorization"}], "basic": {"username": "x", "password": "{token}"}`, upstream, "basic: Authorization is set twice"},
		{"a format with control characters", crm, `"source": "crm", "headers": [{"field": "X-Key", "format": "{token}\r\nX: y"}]`, upstream, "header: the format of X-Key holds control characters"},
		{"a header twice", crm, `"source": "crm", "headers": [{"field": "X-Key"}, {"field": "x-key"}]`, upstream, "header: X-Key is set twice"},
		{"a parameter without a name", crm, `"source": "crm", "query": [""]`, upstream, "query: the name of the parameter is empty"},
		{"a parameter twice", crm, `"source": "crm", "query": ["key", "key"]`, upstream, "query: key is set twice"},
		{"a negative wait", crm, `"source": "crm", "wait": -1`, upstream, "wait: this must be more than 0"},
		{"an unknown word for unavailable", crm, `"source": "crm", "unavailable": "ignore"`, upstream, `unavailable: "ignore" is neither fail nor pass`},
		{"an unknown word for existing", crm, `"source": "crm", "existing": "drop"`, upstream, `existing: "drop" is neither replace nor keep`},
		{"allow_hosts with a URL", crm, `"source": "crm", "allow_hosts": ["https://api.example.org"]`, upstream, `allow_hosts: "https://api.example.org" is not a host such as api.example.org, *.example.org or 10.0.0.1:8443`},
		{"allow_hosts with everything", crm, `"source": "crm", "allow_hosts": ["*"]`, upstream, `allow_hosts: "*" is not a host such as api.example.org, *.example.org or 10.0.0.1:8443`},
		{"an upstream with a placeholder", crm, `"source": "crm"`, `"upstreams": [{"dial": "{http.request.host}:443"}]`, allowHosts},
		{"one upstream of two with a placeholder", crm, `"source": "crm"`, `"upstreams": [{"dial": "api.example.org:443"}, {"dial": "{http.vars.api}"}]`, allowHosts},
		{"dynamic upstreams with a placeholder", crm, `"source": "crm"`, `"dynamic_upstreams": {"source": "a", "name": "{http.request.host}", "port": "443"}`, allowHosts},
	} {
		t.Run(c.title, func(t *testing.T) {
			got := refusal(t, proxyJSON(c.sources, `{"protocol": "inject_token", `+c.fields+`}`, c.rest))
			want := "provision http.reverse_proxy.transport.inject_token: " + c.want
			if !strings.HasSuffix(got, want) {
				t.Errorf("the error is\n%s\nand this was expected at its end:\n%s", got, want)
			}
		})
	}
	for _, field := range []string{"replay_off", "source_patterns", "upstream_source", "basics", "allow_host"} {
		got := refusal(t, proxyJSON(crm, `{"protocol": "inject_token", "source": "crm", "`+field+`": "401"}`, upstream))
		if want := `unknown field "` + field + `"`; !strings.Contains(got, want) {
			t.Errorf("the error of %s is\n%s", field, got)
		}
	}
}

func TestARefusedConfigurationHoldsNoRefresher(t *testing.T) {
	held := func() int {
		n := 0
		refreshers.Range(func(any, any) bool { n++; return true })
		return n
	}
	before := held()
	refusal(t, `{"apps": {"token_sources": {"sources": {
		"a": `+sourceJSON(t, nil)+`,
		"b": `+sourceJSON(t, map[string]string{"grant": `"saml"`})+`
	}}}}`)
	if _, err := validate([]byte(`{"apps": {"token_sources": {"sources": {"a": ` + sourceJSON(t, nil) + `}}}}`)); err != nil {
		t.Fatal(err)
	}
	if after := held(); after != before {
		t.Errorf("%d refreshers are left behind", after-before)
	}
}

// TestEveryGrantNamesOptionsThatAreChecked keeps a new option of a grant from
// being forgotten in the check of what a grant has no use for.
func TestEveryGrantNamesOptionsThatAreChecked(t *testing.T) {
	given := slices.Sorted(maps.Keys(new(Source).given()))
	if ordered := slices.Sorted(slices.Values(grantOptions)); !slices.Equal(given, ordered) {
		t.Errorf("given knows %v and grantOptions %v", given, ordered)
	}
	for _, name := range tokensource.GrantNames() {
		grant, _ := tokensource.GrantByName(name)
		for _, option := range slices.Concat(grant.Needs, grant.Takes) {
			if !slices.Contains(given, option) {
				t.Errorf("the grant %s names %s, which nothing checks", name, option)
			}
			if _, ok := sourceOptions[option]; !ok {
				t.Errorf("the grant %s names %s, which the Caddyfile does not know", name, option)
			}
		}
	}
}

func TestTheNameOfAProviderInTheLogHoldsNoPassword(t *testing.T) {
	for url, want := range map[string]string{
		"https://auth.example.org/token?key=secret":      "auth.example.org",
		"https://{env.USER}:secret@auth.example.org/tok": "auth.example.org",
		"https://auth.example.org:8443":                  "auth.example.org:8443",
	} {
		if got := (&Source{TokenURL: url}).provider(); got != want {
			t.Errorf("%s is told as %q, want %q", url, got, want)
		}
	}
}
