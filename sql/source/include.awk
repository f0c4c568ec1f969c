# Puts bemi-source.sql together: a line "-- include FILE" stands for the lines of a file in this
# folder, which get the line's indentation. @VERSION@ stands for the variable "version".

function print_file(file, indent,    line, status, found) {
	found = 0
	while ((status = (getline line < file)) > 0) {
		print_line(line, indent)
		found = 1
	}
	close(file)
	if (!found) {
		print "cannot read " file > "/dev/stderr"
		exit 1
	}
}

function print_line(line, indent,    name) {
	if (line ~ /^\t*-- include [a-z_]+\.plpgsql$/) {
		name = line
		sub(/^\t*-- include /, "", name)
		sub(/-- include .*/, "", line)
		print_file(folder name, indent line)
	}
	else {
		gsub(/@VERSION@/, version, line)
		print (line == "" ? "" : indent line)
	}
}

FNR == 1 {
	folder = FILENAME
	sub(/[^\/]*$/, "", folder)
}

{ print_line($0, "") }
