package terminal

import (
	"errors"
	"image"
	"image/color"
	"regexp"
	"strings"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// blocks is a line of a QR code, of half blocks, whose blanks are modules as
// well, or of whole ones, of which two are a module.
var blocks = regexp.MustCompile(`^[ \x{00a0}█▀▄]*[█▀▄][ \x{00a0}█▀▄]*$`)

var errNoQRCode = errors.New("the screen shows no QR code")

// ReadQRCode reads a QR code from a screen, as the camera of a phone does,
// whether the terminal is dark or light.
func ReadQRCode(screen string) (text string, err error) {
	var lines [][]rune
	for line := range strings.SplitSeq(screen, "\n") {
		if blocks.MatchString(line) {
			lines = append(lines, []rune(line))
		}
	}
	if len(lines) < 10 {
		return "", errNoQRCode
	}
	modules := modulesOf(lines)
	for _, inverted := range []bool{false, true} {
		var bitmap *gozxing.BinaryBitmap
		if bitmap, err = gozxing.NewBinaryBitmapFromImage(picture(modules, inverted)); err != nil {
			return "", err
		}
		var result *gozxing.Result
		hints := map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true}
		if result, err = qrcode.NewQRCodeReader().Decode(bitmap, hints); err == nil {
			return result.GetText(), nil
		}
	}
	return "", err
}

// modulesOf returns rows of modules: whether each is written with ink.
func modulesOf(lines [][]rune) (rows [][]bool) {
	width, half := 0, false
	for _, line := range lines {
		width = max(width, len(line))
		half = half || strings.ContainsAny(string(line), "▀▄")
	}
	for _, line := range lines {
		upper, lower := make([]bool, width), make([]bool, width)
		for x, c := range line {
			upper[x], lower[x] = c == '█' || c == '▀', c == '█' || c == '▄'
		}
		rows = append(rows, upper)
		if half {
			rows = append(rows, lower)
		} else {
			rows[len(rows)-1] = everySecond(upper)
		}
	}
	return rows
}

func everySecond(all []bool) (some []bool) {
	for i := 0; i < len(all); i += 2 {
		some = append(some, all[i])
	}
	return some
}

// picture draws modules, each of a few pixels, with a margin of the light
// colour.
func picture(rows [][]bool, inverted bool) image.Image {
	const module, margin = 6, 6
	width := 0
	for _, row := range rows {
		width = max(width, len(row))
	}
	img := image.NewGray(image.Rect(0, 0, (width+2*margin)*module, (len(rows)+2*margin)*module))
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			row, column := y/module-margin, x/module-margin
			ink := inverted
			if row >= 0 && row < len(rows) && column >= 0 && column < len(rows[row]) {
				ink = rows[row][column]
			}
			if ink == inverted {
				img.SetGray(x, y, color.Gray{Y: 255})
			}
		}
	}
	return img
}
