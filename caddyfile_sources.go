package injecttoken

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddytoken/inject-token/tokensource"
)

// parseTokenSources parses the global option:
//
//	token_sources {
//	    encryption_key <keys...>
//	    source <name> {
//	        provider         <name> {
//	            <value_name> <value>
//	        }
//	        grant            client_credentials|password|refresh_token|authorization_code|device_code|
//	                         jwt_bearer|token_exchange|custom
//	        token_url        <url>
//	        issuer           <url>
//	        authorize_url    <url>
//	        device_url       <url>
//	        revoke_url       <url>
//	        client_id        <id>
//	        client_secret    <secret>
//	        client_auth      <method> [raw]
//	        private_key      <pem_or_jwk>
//	        key_id           <id>
//	        signing_alg      <alg>
//	        claim            <name> <value>
//	        client_assertion <assertion>
//	        dpop             [<alg>]
//	        username         <name>
//	        password         <secret>
//	        refresh_token    <secret>
//	        subject_token    <token>|caller [<type>]
//	        actor_token      <token> [<type>]
//	        redirect_uri     <uri>
//	        authorize_param  <name> <value>
//	        pkce             S256|off
//	        code_field       <n> <separator>
//	        scope            <scopes...>
//	        scope_separator  <string>
//	        param            <name> <value> | -<name>
//	        param_json       <name> <json>
//	        token_request    [GET|POST] [form|query|json] {
//	            header <name> <value>
//	            param  <name> <value> | -<name>
//	            body   <content_type> <template>
//	        }
//	        refresh_request  [GET|POST] [form|query|json] {
//	            url    <url>
//	            header <name> <value>
//	            param  <name> <value> | -<name>
//	            body   <content_type> <template>
//	        }
//	        token_response {
//	            access_token  <path>
//	            refresh_token <path>
//	            expires_in    <path> [s|ms|m|h]
//	            expires_at    <path> [unix|unix_ms|rfc3339]
//	            error         <path> [<ok_values...>]
//	            expose        <name> <path>
//	        }
//	        default_lifetime <duration>
//	        refresh_at       <percent>
//	        timeout          <duration>
//	        insecure_http
//	        transport http {
//	            ...
//	        }
//	    }
//	}
//
// It may stand several times, also in imported files; the sources add up. One whose
// token another sends, by {source.NAME}, stands in the same block or before it.
func parseTokenSources(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if before, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(before.Value, app); err != nil {
			return nil, d.WrapErr(err)
		}
	}
	if app.Sources == nil {
		app.Sources = make(map[string]*Source)
	}
	d.Next() // consume option name
	if d.NextArg() {
		return nil, d.Errf("token_sources takes no argument, only a block of sources")
	}
	readers := make(map[string]*optionReader) // of the sources of this block
	for d.NextBlock(0) {
		r := newOptionReader(d, "token_sources")
		var err error
		switch d.Val() {
		case "source":
			err = app.parseSource(r, readers)
		case "encryption_key":
			err = app.parseEncryptionKeys(r)
		default:
			err = r.unknown([]string{"source", "encryption_key"})
		}
		if err != nil {
			return nil, err
		}
	}
	if name, m := checkOthers(filledSources(app.Sources)); m != nil {
		m.text = "source " + name + ": " + m.text
		return nil, readers[name].locate(m)
	}
	return httpcaddyfile.App{Name: "token_sources", Value: caddyconfig.JSON(app, nil)}, nil
}

func (a *App) parseSource(r *optionReader, readers map[string]*optionReader) error {
	args := r.RemainingArgs()
	if len(args) != 1 {
		return r.start.Errf("source takes one argument, its name")
	}
	name := args[0]
	if m := checkSourceName(name); m != nil {
		return r.locate(m)
	}
	if _, twice := a.Sources[name]; twice {
		return r.start.Errf("there is a token source named %s already", name)
	}
	s := new(Source)
	r.block = "source"
	if err := r.options(sourceOptions, s); err != nil {
		return err
	}
	if _, m := s.checked(); m != nil {
		m.text = "source " + name + ": " + m.text
		return r.locate(m)
	}
	a.Sources[name], readers[name] = s, r
	return nil
}

// parseEncryptionKeys adds keys. No word of the line is shown in an error: it
// may be a key.
func (a *App) parseEncryptionKeys(r *optionReader) error {
	keys := r.RemainingArgs()
	if len(keys) == 0 {
		return r.start.Errf("write encryption_key KEY…, such as encryption_key {file./run/secrets/token-key}")
	}
	a.EncryptionKeys = append(a.EncryptionKeys, keys...)
	if m := encryptionKeys(a.EncryptionKeys).check(); m != nil {
		return r.start.WrapErr(m)
	}
	return nil
}

// blockOption reads one option of a block into what the block describes.
type blockOption[T any] struct {
	repeats bool
	set     func(r *optionReader, into *T, args []string) error
}

// options reads the options of a source.
func (r *optionReader) options(options map[string]blockOption[Source], into *Source) error {
	return readBlock(r, options, into)
}

// readBlock reads the block that begins at the current token.
func readBlock[T any](r *optionReader, options map[string]blockOption[T], into *T) error {
	for nesting := r.Nesting(); r.NextBlock(nesting); {
		option, ok := options[r.Val()]
		if !ok {
			return r.unknown(slices.Collect(maps.Keys(options)))
		}
		args, err := r.option(option.repeats)
		if err != nil {
			return err
		}
		if err := option.set(r, into, args); err != nil {
			return err
		}
	}
	return nil
}

// field is an option that is one text.
func field[T any](of func(*T) *string) blockOption[T] {
	return blockOption[T]{set: func(r *optionReader, into *T, args []string) error {
		return r.text(of(into), args)
	}}
}

var sourceOptions map[string]blockOption[Source]

func init() { // a variable that refers to its functions cannot refer to itself
	sourceOptions = map[string]blockOption[Source]{
		"provider":         {set: parseProvider},
		"grant":            field(func(s *Source) *string { return &s.Grant }),
		"token_url":        field(func(s *Source) *string { return &s.TokenURL }),
		"issuer":           field(func(s *Source) *string { return &s.Issuer }),
		"authorize_url":    field(func(s *Source) *string { return &s.AuthorizeURL }),
		"device_url":       field(func(s *Source) *string { return &s.DeviceURL }),
		"revoke_url":       field(func(s *Source) *string { return &s.RevokeURL }),
		"redirect_uri":     field(func(s *Source) *string { return &s.RedirectURI }),
		"authorize_param":  {repeats: true, set: parseAuthorizeParam},
		"pkce":             field(func(s *Source) *string { return &s.PKCE }),
		"code_field":       {set: parseCodeField},
		"client_id":        field(func(s *Source) *string { return &s.ClientID }),
		"client_secret":    field(func(s *Source) *string { return &s.ClientSecret }),
		"client_auth":      {set: parseClientAuth},
		"private_key":      field(func(s *Source) *string { return &s.PrivateKey }),
		"key_id":           field(func(s *Source) *string { return &s.KeyID }),
		"signing_alg":      field(func(s *Source) *string { return &s.SigningAlg }),
		"claim":            {repeats: true, set: parseClaim},
		"client_assertion": field(func(s *Source) *string { return &s.ClientAssertion }),
		"dpop":             {set: parseDPoP},
		"subject_token":    {set: typedToken(func(s *Source) (token, kind *string) { return &s.SubjectToken, &s.SubjectTokenType })},
		"actor_token":      {set: typedToken(func(s *Source) (token, kind *string) { return &s.ActorToken, &s.ActorTokenType })},
		"username":         field(func(s *Source) *string { return &s.Username }),
		"password":         field(func(s *Source) *string { return &s.Password }),
		"refresh_token":    field(func(s *Source) *string { return &s.RefreshToken }),
		"scope":            {repeats: true, set: parseScope},
		"scope_separator":  field(func(s *Source) *string { return &s.ScopeSeparator }),
		"param":            {repeats: true, set: func(r *optionReader, s *Source, args []string) error { return r.param(&s.Params, args) }},
		"param_json":       {repeats: true, set: parseParamJSON},
		"token_request":    {set: func(r *optionReader, s *Source, args []string) error { return r.request(&s.TokenRequest, args) }},
		"refresh_request":  {set: func(r *optionReader, s *Source, args []string) error { return r.request(&s.RefreshRequest, args) }},
		"token_response":   {set: parseTokenResponse},
		"default_lifetime": {set: func(r *optionReader, s *Source, args []string) error { return r.duration(&s.DefaultLifetime, args) }},
		"refresh_at":       {set: parseRefreshAt},
		"timeout":          {set: func(r *optionReader, s *Source, args []string) error { return r.duration(&s.Timeout, args) }},
		"insecure_http":    {set: parseInsecureHTTP},
		"transport":        {set: parseTransport},
	}
}

func parseClientAuth(r *optionReader, s *Source, args []string) error {
	if len(args) == 2 && args[1] == "raw" {
		s.ClientAuthRaw = true
		args = args[:1]
	}
	if len(args) != 1 {
		return r.errf("write client_auth METHOD [raw]")
	}
	return r.text(&s.ClientAuth, args)
}

func parseClaim(r *optionReader, s *Source, args []string) error {
	if len(args) != 2 || args[0] == "" {
		return r.errf("write claim NAME VALUE")
	}
	r.named(args[0])
	s.Claims = append(s.Claims, Claim{Name: args[0], Value: args[1]})
	return nil
}

// defaultDPoP is the algorithm that RFC 9449's own examples have, and every server.
const defaultDPoP = "ES256"

func parseDPoP(r *optionReader, s *Source, args []string) error {
	if len(args) == 0 {
		s.DPoP = defaultDPoP
		return nil
	}
	return r.text(&s.DPoP, args)
}

// typedToken reads a token and what it is.
func typedToken(of func(*Source) (token, kind *string)) func(*optionReader, *Source, []string) error {
	return func(r *optionReader, s *Source, args []string) error {
		if len(args) != 1 && len(args) != 2 {
			return r.errf("write %s TOKEN [TYPE], such as {file./var/run/secrets/tokens/subject} jwt", r.current)
		}
		token, kind := of(s)
		if len(args) == 2 {
			*kind = args[1]
		}
		return r.text(token, args[:1])
	}
}

func parseScope(r *optionReader, s *Source, args []string) error {
	if len(args) == 0 || slices.Contains(args, "") {
		return r.errf("write scope SCOPE…")
	}
	s.Scopes = append(s.Scopes, args...)
	return nil
}

func parseAuthorizeParam(r *optionReader, s *Source, args []string) error {
	if len(args) != 2 || args[0] == "" {
		return r.errf("write authorize_param NAME VALUE")
	}
	r.named(args[0])
	s.AuthorizeParams = append(s.AuthorizeParams, AuthorizeParam{Name: args[0], Value: args[1]})
	return nil
}

func parseCodeField(r *optionReader, s *Source, args []string) error {
	if len(args) != 2 {
		return r.errf("write code_field N SEPARATOR, such as code_field 3 ;")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return r.errf("%q is not a number; write code_field N SEPARATOR, such as code_field 3 ;", args[0])
	}
	if err := tokensource.CheckCodeField(n, args[1]); err != nil {
		return r.errf("%v", err)
	}
	s.CodeField, s.CodeSeparator = n, args[1]
	return nil
}

func parseRefreshAt(r *optionReader, s *Source, args []string) error {
	if len(args) == 1 {
		percent, err := strconv.ParseFloat(strings.TrimSuffix(args[0], "%"), 64)
		if err == nil && percent >= 1 && percent <= 99 {
			s.RefreshAt = percent
			return nil
		}
	}
	return r.errf("write a percentage of the lifetime from 1%% to 99%%")
}

func parseInsecureHTTP(r *optionReader, s *Source, args []string) error {
	if len(args) > 0 {
		return r.errf("this takes no argument")
	}
	s.InsecureHTTP = true
	return nil
}

func parseTransport(r *optionReader, s *Source, args []string) error {
	if len(args) != 1 || args[0] != "http" {
		return r.errf("write transport http { … }, with the options of reverse_proxy's transport http")
	}
	s.Transport = new(reverseproxy.HTTPTransport)
	d := r.NewFromNextSegment()
	if err := s.Transport.UnmarshalCaddyfile(d); err != nil {
		return withoutWord(err, d.Val())
	}
	return nil
}

// withoutWord takes the word at fault out of an error of Caddy's own parser:
// in a line that was broken in the wrong place it may be a secret, such as a
// proxy's password.
func withoutWord(err error, word string) error {
	if len(word) < 4 {
		return fmt.Errorf("transport http: %w", err)
	}
	return errors.New("transport http: " + strings.ReplaceAll(err.Error(), word, "…"))
}
